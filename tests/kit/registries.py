"""Registries and base models for the tests of what registries say to each other. Other tests here have their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.services.local import LocalRegistry
from tests.kit import Base, add_tokenizer, plain_base
from tests.kit.sending import SHAPES
from tests.kit.team import open_team


@pytest.fixture(params=["embedded", "team"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalRegistry]:
    if request.param == "team":
        opened = open_team(request, cache_folder=tmp_path / "cache")
    else:
        opened = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    yield opened
    opened.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalRegistry]:
    """For what does not depend on the kind of database and store."""
    opened = LocalRegistry.open(tmp_path / "local", cache_folder=tmp_path / "cache")
    yield opened
    opened.close()


@pytest.fixture
def base(tmp_path: Path, local: LocalRegistry) -> Base:
    """In ``local`` as net."""
    made = plain_base(tmp_path / "base", SHAPES)
    add_tokenizer(made.folder)
    local.add_base("net", made.folder)
    return made
