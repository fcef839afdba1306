"""The plane has each adapter where its own figures say, and computes nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from registry.errors import NotFoundError
from registry.services.local import LocalRegistry
from registry.services.plane import plane
from tests.kit import plain_base, write_chain
from tests.kit.bases import Base
from tests.kit.kinds_of_bases import mixtral_base
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.tensor_files import read_tensors

SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24), "c.weight": (8, 4)}


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")


def test_shares_and_ranks_are_those_of_the_newest_revisions(registry: LocalRegistry, tmp_path: Path) -> None:
    base = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", base.folder)
    registry.publish(write_chain(tmp_path / "1", base, 1, ["a", "b"], r=2)[0], "net/both")
    registry.publish(write_chain(tmp_path / "2", base, 1, ["a"], r=3)[0], "net/one")
    assert plane(registry.deployment, "net").missing == ("net/both", "net/one")
    ranks = {path: registry.stats(path).links[0].delta.effective_rank for path in ("net/both", "net/one")}
    found = plane(registry.deployment, "net")
    assert found.full_rank == 16
    assert found.missing == ()
    whole = 2 * 24 * 16 + 8 * 4
    assert [(one.path, one.share, one.effective_rank) for one in found.places] == [
        ("net/both", 2 * 24 * 16 / whole, ranks["net/both"]),
        ("net/one", 24 * 16 / whole, ranks["net/one"]),
    ]
    registry.publish(write_chain(tmp_path / "3", base, 1, ["c"], r=1)[0], "net/one")
    found = plane(registry.deployment, "net")
    assert ([one.path for one in found.places], found.missing) == (["net/both"], ("net/one",))
    with pytest.raises(NotFoundError):
        plane(registry.deployment, "nets")


@pytest.mark.slow
def test_experts_count_with_all_of_their_matrices(registry: LocalRegistry, tmp_path: Path) -> None:
    base: Base = mixtral_base(tmp_path / "base", layers=2, experts=4)
    registry.add_base("moe", base.folder)
    recipe = Recipe(("q_proj",), ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"), r=2, alpha=4, seed=1)
    registry.publish(write_recipe(tmp_path / "adapter", base, recipe), "moe/chat")
    registry.stats("moe/chat")
    tensors = {
        name: math.prod(tensor.shape)
        for file in base.folder.glob("*.safetensors")
        for name, tensor in read_tensors(file).items()
    }
    touched = sum(many for name, many in tensors.items() if "q_proj" in name or "experts." in name)
    (one,) = plane(registry.deployment, "moe").places
    assert one.share == pytest.approx(touched / sum(tensors.values()))
