"""A folder that is given as the base model's is looked at, also where the registry merges on its own files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.errors import IntegrityError, NotFoundError
from tests.kit import Base, plain_base, write_adapter
from tests.kit.registries import ON_HTTP, opened

SHAPES = {"a.weight": (24, 16)}


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return plain_base(tmp_path / "base", SHAPES)


@pytest.fixture(params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, base: Base, tmp_path: Path) -> Iterator[Any]:
    with opened(request, tmp_path) as kept:
        kept.add_base("net", base.folder)
        kept.publish(write_adapter(tmp_path / "one", base, ["a"], r=2), "net/one")
        yield kept


def test_the_base_s_own_files_are_taken(registry: Any, base: Base, tmp_path: Path) -> None:
    with_them = registry.fetch("net/one", tmp_path / "one-out", kind="merged", base_dir=base.folder)
    assert with_them.rendering == registry.fetch("net/one", tmp_path / "two-out", kind="merged").rendering


@pytest.mark.parametrize("how", ["bytes", "size"])
def test_other_weights_are_refused(registry: Any, base: Base, tmp_path: Path, how: str) -> None:
    other = plain_base(tmp_path / "other", SHAPES, seed=5).folder
    if how == "size":
        weights = other / "model.safetensors"
        weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="that were added to the registry") as wrong:
        registry.fetch("net/one", tmp_path / "out", kind="merged", base_dir=other)
    assert wrong.value.code == "wrong_base"
    assert str(other) in str(wrong.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_them_is_refused(registry: Any, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(NotFoundError, match=r"model\.safetensors") as gone:
            registry.fetch("net/one", tmp_path / "out", kind="merged", base_dir=folder)
        assert gone.value.code == "missing_file"
    assert not (tmp_path / "out").exists()
