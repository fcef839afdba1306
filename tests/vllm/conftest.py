"""A tree of every kind of path that a client of vLLM may ask for, and resolvers on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.app import connect
from registry.folders.staging import FetchCache
from registry.operations.registry import Registry
from registry.services.local import LocalRegistry
from registry.settings import read_settings
from registry.vllm.resolver import RegistryResolver
from tests.kit import Base, plain_base
from tests.kit.recipes import Recipe, write_recipe
from tests.vllm.engine import StubVllm

SHAPES = {"emb.weight": (10, 6), "one.weight": (32, 24), "two.weight": (24, 32), "head.weight": (5, 24)}
SHAPES_OF_BIAS: dict[str, tuple[int, ...]] = {"one.bias": (32,)}


@dataclass
class Place:
    """A registry in a folder, and what is published there."""

    root: Path
    base: Base
    registry: LocalRegistry
    cache: Path
    _published: int = 0

    def publish(self, path: str, recipe: Recipe, *tags: str) -> str:
        """Publish one more revision; its reference."""
        folder = write_recipe(self.root / "work" / str(self._published), self.base, recipe)
        self._published += 1
        return self.registry.publish(folder, path, tags=tags).revision.reference


MakeResolver = Callable[..., RegistryResolver]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net/support/french, two revisions, the first of them in production; made once and copied for each test."""
    root = tmp_path_factory.mktemp("template")
    base = plain_base(root / "base", SHAPES | SHAPES_OF_BIAS)
    with closing(LocalRegistry.open(root / "registry", cache_folder=root / "cache")) as registry:
        registry.add_base("net", base.folder)
        place = Place(root, base, registry, root / "cache")
        place.publish("net/support", Recipe(("one", "two"), r=3, seed=1))
        place.publish("net/support/french", Recipe(("one",), r=2, seed=2), "prod")
        place.publish("net/support/french", Recipe(("one",), r=2, seed=3))
    return root


@pytest.fixture
def tree(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A registry of the test's own."""
    shutil.copytree(template / "registry", tmp_path / "registry")
    base = plain_base(tmp_path / "base", SHAPES | SHAPES_OF_BIAS)
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(tmp_path / "cache"))
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        yield Place(tmp_path, base, registry, tmp_path / "cache")


@pytest.fixture
def make_resolver(tree: Place) -> Iterator[MakeResolver]:
    """Resolvers as the plugin makes them, of a process with the given settings."""
    opened: list[Registry] = []

    def make(url: str | None = None, **settings: str) -> RegistryResolver:
        where = url or str(tree.root / "registry")
        environ: dict[str, str] = {
            "REGISTRY_VLLM_BASE": "net",
            "REGISTRY_VLLM_MAX_RANK": "8",
            "REGISTRY_VLLM_FOLLOW": "0",
            **settings,
        }

        def opens() -> Registry:
            opened.append(connect(where))
            return opened[-1]

        return RegistryResolver(StubVllm(), opens, read_settings(environ | {"REGISTRY_URL": where}), environ)

    yield make
    for registry in opened:
        registry.close()


@pytest.fixture
def cache(tree: Place) -> FetchCache:
    """The cache that the resolvers fill, as a program sees it that needs its room."""
    return FetchCache(tree.cache, limit=0)
