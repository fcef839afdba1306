"""Truncation to 16-bit factors: their rounding is part of the error that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from registry.errors import AccuracyError
from tests.kit import Base, llama_base, read_model
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf

PATH = [Recipe(("q_proj", "down_proj"), r=4, seed=1), Recipe(("q_proj", "k_proj"), r=4, rslora=True, seed=2)]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    made = Shelf(tmp_path_factory.mktemp("shelf"))
    yield made
    made.close()


def _given(shelf: Shelf, *, dora: bool) -> tuple[Base, list[Path], str]:
    base = shelf.base("llama", llama_base)
    links = [*PATH, Recipe(("q_proj", "up_proj"), dora=True, seed=3)] if dora else PATH
    path = write_recipes(shelf.folder(), base, links)
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
    base, path, reference = _given(shelf, dora=False)
    out = shelf.folder()
    answer = shelf.registry.fetch(reference, out, max_error=asked, dtype=dtype)  # type: ignore[arg-type] # a parameter
    assert answer.truncation is not None
    written = answer.truncation.total.written
    assert written is not None
    assert _error(base, path, out) == pytest.approx(written, rel=1e-6)
    assert written <= asked
    assert answer.truncation.total.relative_frobenius < written


def test_rounding_alone_can_be_too_much(shelf: Shelf) -> None:
    _, _, reference = _given(shelf, dora=False)
    out = shelf.folder()
    with pytest.raises(AccuracyError, match="fp32"):
        shelf.registry.fetch(reference, out, max_error=0.0001, dtype="bf16")
    assert not out.exists()
    assert shelf.registry.fetch(reference, out, max_error=0.0001).truncation is not None


def test_dora_too(shelf: Shelf) -> None:
    _, _, reference = _given(shelf, dora=True)
    answer = shelf.registry.fetch(reference, shelf.folder(), max_error=0.05, dtype="bf16")
    assert answer.truncation is not None
    total = answer.truncation.total
    assert total.written is not None
    assert total.relative_frobenius < total.written <= 0.05


def test_float32_is_not_measured(shelf: Shelf) -> None:
    _, _, reference = _given(shelf, dora=False)
    answer = shelf.registry.fetch(reference, shelf.folder(), rank=2)
    assert answer.truncation is not None
    assert answer.truncation.total.written is None
