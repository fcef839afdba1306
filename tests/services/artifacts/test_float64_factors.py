"""Factors in float64 need no conversion: what was read may be what is kept, so it is scaled in a copy, each time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from registry.schemas import ArtifactKind
from tests.kit import Base, llama_base
from tests.kit.kinds_of_bases import mixtral_base
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf

EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.close()


@pytest.fixture(params=["tied", "one expert"])
def made(request: pytest.FixtureRequest, shelf: Shelf) -> tuple[Base, str, list[Path]]:
    """A path in float64 whose factors are kept whole between reads."""
    if request.param == "tied":
        base = shelf.base("llama", llama_base, tied=True)
        both = Recipe(("embed_tokens", "lm_head"), ensure_tied=True, r=1, alpha=4, dtype="F64", seed=1)
        recipes, name = [both, Recipe(("lm_head",), r=1, seed=2)], "llama"
    else:
        base = shelf.base("mixtral", mixtral_base, experts=1)
        recipes, name = [Recipe(parameters=EXPERTS, r=2, alpha=8, dtype="F64", seed=1)], "mixtral"
    path = write_recipes(shelf.folder(), base, recipes)
    return base, shelf.path(name, path), list(path)


def far(base: Base, path: list[Path], composed: Path) -> float:
    """The largest difference of a value of the composed adapter's weights."""
    found = base.simulate([composed]).tensors
    expected = base.simulate(path).tensors.items()
    return max(float(np.abs(value.values - found[name].values).max()) for name, value in expected)


@pytest.mark.parametrize("options", [{}, {"rank": 8}, {"rank": 8, "dtype": "fp32"}])
def test_composed(shelf: Shelf, made: tuple[Base, str, list[Path]], options: dict[str, object]) -> None:
    base, reference, path = made
    assert far(base, path, shelf.composed(reference, **options)) < 1e-6


@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_an_artifact_is_the_same_however_often_it_is_read(
    shelf: Shelf, made: tuple[Base, str, list[Path]], kind: ArtifactKind
) -> None:
    with shelf.registry.artifact(made[1], kind=kind) as artifact:
        for file in artifact.files.values():
            assert file.read() == file.read() == file.read()
