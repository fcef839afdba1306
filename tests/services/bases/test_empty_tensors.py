"""A base model with tensors that hold nothing, and with scalars: everything that reads its files goes on."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from registry.services.local import LocalRegistry
from tests.kit import RawTensor, read_model, write_model
from tests.kit.full_models import full_model
from tests.kit.shelf import Shelf
from tests.kit.tensor_files import write_tensors

SHAPES: dict[str, tuple[int, ...]] = {
    "fc.weight": (8, 6),
    "fc.bias": (8,),
    "scale": (),
    "none.weight": (0, 6),
    "tokens": (1, 0, 6),
    "thin.weight": (6, 0),
    "nothing.bias": (0,),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    rng = np.random.default_rng(1)
    write_model(folder, {name: RawTensor.of(rng.normal(size=shape), "BF16") for name, shape in SHAPES.items()})
    (folder / "config.json").write_text("{}")
    return folder


def _adapter(folder: Path, on: Path | None = None, seed: int = 2) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    lead = "base_model.model.fc.lora"
    pair = {f"{lead}_A.weight": rng.normal(size=(2, 6)), f"{lead}_B.weight": rng.normal(size=(8, 2))}
    write_tensors(folder / "adapter_model.safetensors", {name: RawTensor.of(one, "F32") for name, one in pair.items()})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["fc"]}
    named = {} if on is None else {"base_model_name_or_path": str(on)}
    (folder / "adapter_config.json").write_text(json.dumps(config | named))
    return folder


def test_everything_that_reads_them_goes_on(base: Path, tmp_path: Path, shelf: Shelf) -> None:
    ours = shelf.registry
    ours.add_base("net", base)
    ours.publish(_adapter(tmp_path / "first"), "net/a")
    merged, wide = tmp_path / "merged", tmp_path / "wide"
    ours.fetch("net/a", merged, kind="merged")
    ours.fetch("net/a", wide, kind="merged", dtype="fp32")
    assert {name: raw.shape for name, raw in read_model(wide).items()} == SHAPES
    plain = tmp_path / "plain"
    write_model_of(merged, plain)
    child = ours.publish(_adapter(tmp_path / "second", plain, 3), "net/a/b").revision
    assert child.parent == "net/a@1"
    assert child.parent_known_by == "compared"
    assert [one.reference for one in ours.identify(plain).merged] == ["net/a@1"]
    ours.stats("net/a/b", fidelity="bf16")
    full = tmp_path / "full"
    full_model(full, base, size=0.2, trained=lambda name: name.startswith("fc"))
    ours.publish(full, "net/exact", full=True)
    ours.publish(full, "net/rank", full=True, rank=2)
    ours.fetch("net/exact", tmp_path / "again", kind="merged")
    assert read_model(tmp_path / "again") == read_model(full)
    with closing(LocalRegistry.open(tmp_path / "other", create=True)) as other:
        ours.copy("net", other, recursive=True)
        other.verify(tmp_path / "again")


def write_model_of(folder: Path, plain: Path) -> None:
    """The weights of a merged model, without its receipt."""
    plain.mkdir()
    write_model(plain, read_model(folder))
    (plain / "config.json").write_text("{}")
