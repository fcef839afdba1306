"""Truncation to 16-bit factors: their rounding is part of the error that was asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import AccuracyError, InvalidAdapterError
from registry.folders.receipts import read_receipt
from registry.schemas import TruncationTotal
from tests.kit import (
    Base,
    RawTensor,
    gpt2_base,
    llama_base,
    plain_base,
    read_model,
    read_tensors,
    write_model,
    write_tensors,
)
from tests.kit.kinds_of_bases import conv_base
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf

PATH = [Recipe(("q_proj", "down_proj"), r=4, seed=1), Recipe(("q_proj", "k_proj"), r=4, rslora=True, seed=2)]


def _given(shelf: Shelf) -> tuple[Base, list[Path], str]:
    base = shelf.base("llama", llama_base)
    path = write_recipes(shelf.folder(), base, PATH)
    return base, path, shelf.path("llama", path)


def _error(base: Base, path: list[Path], composed: Path) -> float:
    """||D - D'|| / ||D|| over all modules, by the independent reference on the fetched factors, for paths of LoRA."""
    before = read_model(base.folder)
    right, found = base.simulate(path).tensors, base.simulate([composed]).tensors
    changed = [name for name, one in right.items() if one.touched]
    apart = np.sqrt(sum(np.sum((right[name].values - found[name].values) ** 2) for name in changed))
    return float(apart / np.sqrt(sum(np.sum((right[name].values - before[name].values) ** 2) for name in changed)))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("asked", [0.004, 0.05, 0.3])
def test_the_error_as_written_is_within_the_bound(shelf: Shelf, dtype: str, asked: float) -> None:
    base, path, reference = _given(shelf)
    out = shelf.folder()
    answer = shelf.registry.fetch(reference, out, max_error=asked, dtype=dtype)  # type: ignore[arg-type] # a parameter
    assert answer.truncation is not None
    written = answer.truncation.total.written
    assert written is not None
    assert _error(base, path, out) == pytest.approx(written, rel=1e-6)
    assert written <= asked
    assert answer.truncation.total.relative_frobenius < written


def test_rounding_alone_can_be_too_much(shelf: Shelf) -> None:
    _, _, reference = _given(shelf)
    out = shelf.folder()
    with pytest.raises(AccuracyError, match="fp32"):
        shelf.registry.fetch(reference, out, max_error=0.0001, dtype="bf16")
    assert not out.exists()
    assert shelf.registry.fetch(reference, out, max_error=0.0001).truncation is not None


# --- DoRA ---


def _wide(folder: Path) -> Base:
    """An embedding of several blocks of rows, whose oriented rows are stored columns."""
    return llama_base(folder, vocab=9000)


SMALL: dict[str, tuple[Callable[..., Base], list[Recipe]]] = {
    "linear": (llama_base, [Recipe(("q_proj", "k_proj")), Recipe(("q_proj", "up_proj"), dora=True)]),
    "linear-twice": (
        llama_base,
        [Recipe(("q_proj",), dora=True), Recipe(("q_proj", "v_proj")), Recipe(("q_proj",), dora=True)],
    ),
    "embedding": (_wide, [Recipe(("embed_tokens",), dora=True, scale=20), Recipe(("embed_tokens",), scale=20)]),
    "conv1d": (gpt2_base, [Recipe(("c_attn", "c_fc")), Recipe(("c_attn", "c_proj", "wpe"), dora=True)]),
    "convolution": (conv_base, [Recipe(("c1", "c2")), Recipe(("c2", "c1p"), dora=True)]),
}
"""Paths whose deltas are hundredths of the weights, as training makes them: there the magnitudes' rounding shows."""


class Dora:
    """A published path with DoRA links, and the true error of what is fetched of it."""

    def __init__(self, shelf: Shelf, kind: str, scale: float = 0.05) -> None:
        make, links = SMALL[kind]
        self.shelf, self.base = shelf, shelf.base(f"dora-{kind}", make)
        made = [replace(link, r=4, seed=at, scale=scale * link.scale) for at, link in enumerate(links, 1)]
        self.path = write_recipes(shelf.folder(), self.base, made)
        self.references = shelf.publish(f"dora-{kind}", self.path)

    def check(self, since: int = 0, **options: Any) -> tuple[float, TruncationTotal]:
        """The error that a fetch reports, which is the true one; and the report."""
        ancestor = self.references[since - 1] if since else None
        out = self.shelf.folder()
        truncation = self.shelf.registry.fetch(self.references[-1], out, since=ancestor, **options).truncation
        assert truncation is not None
        written, total = truncation.total.written, truncation.total
        assert written is not None
        assert read_receipt(out).truncation == truncation
        right = self.base.simulate(self.path).tensors
        found = self.base.simulate([*self.path[:since], out]).tensors
        apart = math.sqrt(sum(float(np.sum((one.values - found[name].values) ** 2)) for name, one in right.items()))
        assert written == pytest.approx(apart / math.sqrt(total.energy), rel=1e-6)
        return written, total


@pytest.mark.long_but("linear-bf16", "linear-twice-fp16", "conv1d-fp16", "embedding-bf16", "convolution")
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", SMALL)
def test_the_error_of_dora_is_that_of_the_weight_with_the_rounded_magnitude(
    shelf: Shelf, kind: str, dtype: str
) -> None:
    dora = Dora(shelf, kind)
    alone, total = dora.check(rank=64, dtype=dtype)
    assert alone > 0
    assert total.discarded == 0
    written, _ = dora.check(rank=3, dtype=dtype)
    assert written > alone
    for asked in (0.99 * written, 1.2 * alone):
        assert dora.check(max_error=asked, dtype=dtype)[0] <= asked


def test_ranks_make_room_for_the_rounding_of_magnitudes(shelf: Shelf) -> None:
    dora = Dora(shelf, "linear")
    written, total = dora.check(rank=3, dtype="bf16")
    asked = (written + total.relative_frobenius) / 2
    assert total.relative_frobenius < asked < written
    found, total = dora.check(max_error=asked, dtype="bf16")
    assert total.relative_frobenius < found <= asked


def test_dora_after_an_ancestor(shelf: Shelf) -> None:
    dora = Dora(shelf, "linear-twice")
    dora.check(since=1, rank=3, dtype="bf16")
    dora.check(since=2, rank=3, dtype="bf16")


def test_rounding_of_magnitudes_alone_can_be_too_much(shelf: Shelf) -> None:
    dora = Dora(shelf, "linear", scale=0.02)
    out = shelf.folder()
    with pytest.raises(AccuracyError, match="fp32") as refused:
        shelf.registry.fetch(dora.references[-1], out, max_error=0.05, dtype="bf16")
    assert not out.exists()
    found = re.search(r"--max-error (\S+) or more", str(refused.value))
    assert found is not None
    least = float(found[1])
    written, _ = dora.check(max_error=least, dtype="bf16")
    assert 0.05 < written <= least
    tiny = Dora(shelf, "linear", scale=0.0005)  # the rounding is more than what was learned
    with pytest.raises(AccuracyError, match=r"the error is [1-9][0-9.]*, more than .* fetch with --dtype fp32\.$"):
        shelf.registry.fetch(tiny.references[-1], out, max_error=0.05, dtype="bf16")


def test_a_magnitude_that_the_dtype_lacks(shelf: Shelf) -> None:
    base = shelf.base("large", plain_base, shapes={"a.weight": (8, 6), "b.weight": (8, 6)})
    path = write_recipes(shelf.folder(), base, [Recipe(("a", "b"), dora=True)])
    tensors = read_tensors(path[0] / "adapter_model.safetensors")
    (name,) = [name for name in tensors if "b.lora_magnitude" in name]
    tensors[name] = RawTensor.of(tensors[name].values * 1e6, "F32")
    write_tensors(path[0] / "adapter_model.safetensors", tensors)
    reference = shelf.path("large", path)
    with pytest.raises(InvalidAdapterError, match="too large for float16") as refused:
        shelf.registry.fetch(reference, shelf.folder(), rank=1, dtype="fp16")
    assert refused.value.code == "overflow"
    assert shelf.registry.fetch(reference, shelf.folder(), rank=1, dtype="bf16").truncation is not None


def test_a_direction_that_the_dtype_lacks(shelf: Shelf) -> None:
    """A row of the weight that is its delta alone, whose factor is below the smallest number of fp16."""
    base = shelf.base("gone", _with_a_row_of_zeros)
    path = write_recipes(shelf.folder(), base, [Recipe(("a", "b"), dora=True)])
    tensors = read_tensors(path[0] / "adapter_model.safetensors")
    for name in [name for name in tensors if ".b." in name]:
        values = tensors[name].values
        if "lora_B" in name:
            values[3] *= 1e-9
        elif "magnitude" in name:
            values[3] = 1.0
        tensors[name] = RawTensor.of(values, "F32")
    write_tensors(path[0] / "adapter_model.safetensors", tensors)
    reference = shelf.path("gone", path)
    with pytest.raises(InvalidAdapterError, match="Output feature 3 of 'b'") as refused:
        shelf.registry.fetch(reference, shelf.folder(), rank=1, dtype="fp16")
    assert refused.value.code == "zero_norm"
    assert shelf.registry.fetch(reference, shelf.folder(), rank=1, dtype="bf16").truncation is not None


def _with_a_row_of_zeros(folder: Path) -> Base:
    base = plain_base(folder, shapes={"a.weight": (8, 6), "b.weight": (8, 6)})
    tensors = read_model(folder)
    values = tensors["b.weight"].values
    values[3] = 0.0
    write_model(folder, {**tensors, "b.weight": RawTensor.of(values, "F32")})
    return base


def test_float32_is_not_measured(shelf: Shelf) -> None:
    _, _, reference = _given(shelf)
    answer = shelf.registry.fetch(reference, shelf.folder(), rank=2)
    assert answer.truncation is not None
    assert answer.truncation.total.written is None
