"""The workshop of the examples, made once and copied for each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.operations.registry import Registry
from registry.services.local import LocalRegistry
from tests.kit.serving import ServedRegistry
from tests.operations.workshop import REGISTRY, furnish


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furnished")
    furnish(folder)
    return folder


@pytest.fixture
def workshop(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the folder that the example runs in."""
    folder = tmp_path / "workshop"
    shutil.copytree(furnished, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=["in process", pytest.param("over HTTP", marks=pytest.mark.slow)])
def team(request: pytest.FixtureRequest, workshop: Path) -> Iterator[Registry]:
    """The registry of the workshop."""
    local = LocalRegistry.open(workshop / REGISTRY, cache_folder=workshop / "cache")
    with local if request.param == "in process" else ServedRegistry(local, workshop / "cache") as opened:
        yield opened
