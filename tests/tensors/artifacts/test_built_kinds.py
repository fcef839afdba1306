"""The table of kinds: what is built is of the kind that its row tells, and its bytes are what the path means.

The JSON files of a merged model say what its weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from registry.errors import UsageError
from registry.files.header import write_header
from registry.folders.scan import ADAPTER_CONFIG
from registry.schemas import ArtifactKind
from registry.schemas.artifacts import KINDS
from registry.tensors.artifacts.merged import index_of, untied_config
from registry.transfer.model_files import CONFIG
from tests.kit import Base, plain_base, read_model, used_bound, write_chain
from tests.kit.merged_tensor import SUM_ERROR
from tests.kit.shelf import Shelf, core_artifact


@pytest.fixture(scope="module")
def base(shelf: Shelf) -> Base:
    return shelf.base("kinds", plain_base, shapes={"a.weight": (12, 20), "b.weight": (8, 12)})


@pytest.fixture(scope="module")
def path(shelf: Shelf, base: Base) -> list[Path]:
    return write_chain(shelf.folder(), base, 2, ["a", "b"], r=2)


@pytest.fixture(scope="module")
def reference(shelf: Shelf, path: list[Path]) -> str:
    return shelf.path("kinds", path)


def _merged(base: Base, path: list[Path], out: Path) -> bool:
    return used_bound(base.simulate(path).tensors, read_model(out)) <= 1


def _composed(base: Base, path: list[Path], out: Path) -> bool:
    """On the base it gives what the path gives; its factors are rounded, so twice the error of a sum."""
    meant, found = base.simulate(path).tensors, base.simulate([out]).tensors
    return meant.keys() == found.keys() and all(
        bool(np.all(np.abs(found[name].values - one.values) <= 2 * SUM_ERROR * one.magnitude))
        for name, one in meant.items()
    )


def _published(base: Base, path: list[Path], out: Path) -> bool:
    del base
    return all((out / file.name).read_bytes() == file.read_bytes() for file in path[-1].iterdir())


JUDGES: Mapping[str, Callable[[Base, list[Path], Path], bool]] = {
    "merged": _merged,
    "lora": _composed,
    "published": _published,
}
"""What each kind's folder has to be, by a computation in float64 or by the bytes that came in."""


@pytest.mark.parametrize("kind", KINDS)
def test_its_bytes_are_what_the_path_means(
    shelf: Shelf, base: Base, path: list[Path], reference: str, kind: ArtifactKind
) -> None:
    assert kind in JUDGES, f"say in JUDGES what a folder of the kind {kind!r} has to be"
    out = shelf.folder()
    shelf.registry.fetch(reference, out, kind=kind)
    assert JUDGES[kind](base, path, out)
    assert not JUDGES[kind](base, [*path[:-1], path[0]], out), "the judge takes another path's folder for this one"


@pytest.mark.parametrize("kind", KINDS)
def test_an_artifact_is_what_its_row_says(shelf: Shelf, reference: str, kind: ArtifactKind) -> None:
    row = KINDS[kind]
    with core_artifact(shelf.registry, reference, kind=kind) as artifact:
        assert artifact.kind == kind
        assert (artifact.numerics is None) == row.is_verbatim
        assert len(artifact.plan.links) == (1 if row.tip_only else 2)
        assert (artifact.plan.base_repo is not None) == row.is_composed
        assert (ADAPTER_CONFIG in artifact.files) == (not row.is_model)
        assert (CONFIG in artifact.files) == row.is_model
        assert all(file.digest is not None for file in artifact.files.values()) or not row.is_verbatim


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_model_is_everything_but_composed(shelf: Shelf, reference: str, kind: ArtifactKind) -> None:
    base = reference.partition("/")[0]
    if KINDS[kind].is_composed:
        with pytest.raises(UsageError, match="is a base model: it has no adapters to compose; fetch it --as merged"):
            shelf.registry.artifact(base, kind=kind)
        return
    with core_artifact(shelf.registry, base, kind=kind) as artifact:
        assert CONFIG in artifact.files


def test_an_untied_model_says_so_at_every_level() -> None:
    config = {"tie_word_embeddings": True, "text_config": {"hidden_size": 8}, "vision": {"tie_word_embeddings": True},
              "audio": {"hidden_size": 4}}  # fmt: skip
    assert untied_config(config) == {
        "tie_word_embeddings": False,
        "text_config": {"hidden_size": 8, "tie_word_embeddings": False},
        "vision": {"tie_word_embeddings": False},
        "audio": {"hidden_size": 4},
    }
    assert untied_config({}) == {"tie_word_embeddings": False}
    assert config["tie_word_embeddings"] is True


def test_the_index_has_new_tensors_and_the_size_of_all() -> None:
    _, header = write_header([("old", "F32", (2, 3)), ("new", "F32", (5,))], {})
    index = {"metadata": {"total_size": 24, "made": "by hand"}, "weight_map": {"old": "1.safetensors"}}
    assert index_of(index, {"1.safetensors": header}) == {
        "metadata": {"total_size": 44, "made": "by hand"},
        "weight_map": {"old": "1.safetensors", "new": "1.safetensors"},
    }
