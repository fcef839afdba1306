"""Tensors of an exact file laid over a base: the same bytes by any range, and no frame read that is not touched."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest

from registry.errors import IntegrityError
from registry.files.header import ModelWeights, read_header
from registry.files.source import BytesSource, FileSource, read_range
from registry.tensors.exact.contents import Changed, changed_tensors, estimated_size, with_exact_tensors, write_exact
from registry.tensors.exact.file_format import FRAME, read_index
from tests.kit.tensor_files import RawTensor, write_tensors


class Counting(BytesSource):
    """Bytes that note what was read of them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, "exact")
        self.read: list[tuple[int, int]] = []

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.read.append((offset, offset + len(buffer)))
        super().read_into(offset, buffer)


def _model(path: Path, tensors: dict[str, RawTensor]) -> ModelWeights:
    write_tensors(path, tensors)
    source = FileSource(path)
    header = read_header(source, what=path.name, error=IntegrityError)
    return ModelWeights({path.name: header}, {name: (source, entry) for name, entry in header.entries.items()})


def _written(changed: list[Changed]) -> bytes:
    out = io.BytesIO()
    write_exact(changed, out, lambda _: None)
    return out.getvalue()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelWeights, ModelWeights, Path]:
    """A base, and a model with one grown, one recast, one moved and one equal tensor."""
    place, draw = tmp_path_factory.mktemp("overlay"), np.random.default_rng(0)
    base = {name: draw.standard_normal((300, 1200)) for name in ("equal", "grown", "moved", "recast")}
    moved = {name: values + 1e-3 * draw.standard_normal(values.shape) for name, values in base.items()}
    moved["grown"] = np.concatenate([moved["grown"], draw.standard_normal((900, 1200))])
    old = {name: RawTensor.of(values, "BF16") for name, values in base.items()}
    new = {name: RawTensor.of(values, "F32" if name == "recast" else "BF16") for name, values in moved.items()}
    new["equal"] = old["equal"]
    return _model(place / "old" / "m.safetensors", old), _model(place / "m.safetensors", new), place / "m.safetensors"


def test_any_range_is_the_models(models: tuple[ModelWeights, ModelWeights, Path]) -> None:
    base, model, file = models
    changed = list(changed_tensors(model.tensors, base.tensors, lambda _: None))
    assert [one.name for one in changed] == ["grown", "moved", "recast"]
    source = BytesSource(_written(changed), "exact")
    laid = with_exact_tensors(base, read_index(source, what="it", error=IntegrityError), source)
    whole, made = file.read_bytes(), laid.made[file.name]
    assert {name: (entry.dtype, entry.shape) for name, entry in laid.headers[file.name].entries.items()} == {
        name: (entry.dtype, entry.shape) for name, (_, entry) in model.tensors.items()
    }
    for name, (_, entry) in laid.tensors.items():
        own = model.tensors[name][1]
        assert read_range(made, entry.start, entry.stop) == whole[own.start : own.stop]
    everything, draw = read_range(made, 0, made.size), random.Random(0)
    for _ in range(100):
        start = draw.randrange(made.size)
        stop = min(made.size, start + draw.choice([1, 7, 4096, FRAME, 3 * FRAME]))
        assert read_range(made, start, stop) == everything[start:stop]
    with pytest.raises(IntegrityError, match="were requested"):
        read_range(made, made.size - 1, made.size + 1)


def test_a_range_reads_its_frames_alone(models: tuple[ModelWeights, ModelWeights, Path]) -> None:
    base, model, _ = models
    data = _written(list(changed_tensors(model.tensors, base.tensors, lambda _: None)))
    source = Counting(data)
    index = read_index(source, what="it", error=IntegrityError)
    laid = with_exact_tensors(base, index, source)
    source.read.clear()
    entry = index.entries["grown"]
    at = laid.tensors["grown"][1].start
    read_range(laid.tensors["grown"][0], at + FRAME + 5, at + FRAME + 10)
    first = entry.start + entry.frames[0]
    assert source.read == [(first, first + entry.frames[1])]


def test_the_estimate_is_near_what_it_takes(models: tuple[ModelWeights, ModelWeights, Path]) -> None:
    base, model, _ = models
    changed = list(changed_tensors(model.tensors, base.tensors, lambda _: None))
    assert abs(estimated_size(changed) / len(_written(changed)) - 1) < 0.05


def test_the_same_model_gives_the_same_file(models: tuple[ModelWeights, ModelWeights, Path]) -> None:
    base, model, _ = models
    changed = list(changed_tensors(model.tensors, base.tensors, lambda _: None))
    assert _written(changed) == _written(changed)
