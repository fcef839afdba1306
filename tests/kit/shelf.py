"""A registry to try values on: bases are added once, every path is published under names of its own.

The one module of the kit that imports `registry`; the answers that its results are judged by never come through here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.services.local import LocalRegistry
from registry.tensors.artifacts.artifact import Artifact
from tests.kit.bases import Base
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.tensor_files import RawTensor, parse_tensors, read_model
from tests.kit.variants import MAKERS


def core_artifact(registry: LocalRegistry, reference: str, **options: Any) -> Artifact:
    """What a registry in process hands out, with what the tensor core knows of it and the protocol does not say."""
    artifact = registry.artifact(reference, **options)
    assert isinstance(artifact, Artifact)
    return artifact


class Shelf:
    """A registry in a folder, and the folders that things are made in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = LocalRegistry.open(root / "registry", create=True)
        self._numbers = itertools.count(1)
        self._bases: dict[str, Base] = {}

    def close(self) -> None:
        self.registry.close()

    def folder(self) -> Path:
        """A new folder's path, not made yet."""
        return self.root / f"made-{next(self._numbers)}"

    def base(self, name: str, make: Callable[..., Base], **options: Any) -> Base:
        """The base model ``name``: made by ``make(folder, **options)`` and added on the first call."""
        if name not in self._bases:
            base = make(self.folder(), **options)
            self.registry.add_base(name, base.folder)
            self._bases[name] = base
        return self._bases[name]

    def publish(self, name: str, adapters: Iterable[Path]) -> list[str]:
        """Publish a new path under base ``name``; references, root first."""
        path = name
        references: list[str] = []
        for adapter in adapters:
            path = f"{path}/p{next(self._numbers)}"
            # A model with adapters merged into it in memory goes on saying that it is the base.
            above: dict[str, Any] = {"parent": references[-1], "skip_parent_check": True} if references else {}
            references.append(self.registry.publish(adapter, path, **above).revision.reference)
        return references

    def merged(self, reference: str, **options: Any) -> dict[str, RawTensor]:
        """The tensors of the merged model, fetched to a new folder."""
        out = self.folder()
        self.registry.fetch(reference, out, kind="merged", **options)
        return read_model(out)

    def read_merged(self, reference: str, **options: Any) -> dict[str, RawTensor]:
        """The same without writing a file."""
        with core_artifact(self.registry, reference, kind="merged", **options) as artifact:
            return artifact_tensors(artifact)

    def composed(self, reference: str, **options: Any) -> Path:
        """A new folder with the composed adapter."""
        out = self.folder()
        self.registry.fetch(reference, out, kind="lora", **options)
        return out

    def path(self, name: str, adapters: Sequence[Path]) -> str:
        """Publish a new path; the reference of its end."""
        return self.publish(name, adapters)[-1]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A shelf for all tests of a module."""
    with closing(Shelf(tmp_path_factory.mktemp("shelf"))) as made:
        yield made


def published(shelf: Shelf, kind: str, recipes: Sequence[Recipe]) -> tuple[Base, list[Path], str]:
    """A path of adapters with these recipes on a base of ``MAKERS``, each with a seed of its own."""
    name = kind.replace(" ", "-").replace("_", "-")
    base = shelf.base(name, MAKERS[kind])
    seeded = [dataclasses.replace(recipe, seed=number) for number, recipe in enumerate(recipes, start=1)]
    path = write_recipes(shelf.folder(), base, seeded)
    return base, path, shelf.path(name, path)


def artifact_tensors(artifact: Artifact) -> dict[str, RawTensor]:
    """All tensors of an artifact's safetensors files."""
    found: dict[str, RawTensor] = {}
    for path, file in artifact.files.items():
        if path.endswith(".safetensors"):
            found |= parse_tensors(file.read())
    return found
