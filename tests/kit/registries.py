"""Registries of each kind, and base models, for the tests that all of them pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from registry.services.local import LocalRegistry
from tests.kit import Base, add_tokenizer, plain_base
from tests.kit.sending import SHAPES
from tests.kit.serving import open_http
from tests.kit.team import open_team

ON_HTTP: Final = pytest.param("http", marks=pytest.mark.slow)
"""For tests whose embedded variant shows the same in a fraction of the time."""
ON_TEAM: Final = pytest.param("team", marks=pytest.mark.slow)
ON_TEAM_AT_LENGTH: Final = pytest.param("team", marks=pytest.mark.long)
"""Where the variant over HTTP is slow, too."""


def opened(request: pytest.FixtureRequest, folder: Path) -> AbstractContextManager[Any]:
    """A new registry of the kind that the fixture's parameter names: see `opened_as`."""
    return opened_as(request.param, request, folder)


@contextmanager
def opened_as(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    """A new registry; the tests of one kind hold for the others too.

    ``embedded``: in process, on SQLite and a folder. ``team``: in process, on PostgreSQL and S3. ``http``: the first,
    over HTTP.
    """
    match kind:
        case "embedded":
            made: Any = LocalRegistry.open(folder / "registry", cache_folder=folder / "cache")
        case "team":
            made = open_team(request, cache_folder=folder / "cache")
        case "http":
            made = open_http(folder)
        case other:
            raise ValueError(f"no kind of registry is called {other}")
    with closing(made):
        yield made


@pytest.fixture(params=["embedded", ON_TEAM])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalRegistry]:
    with opened(request, tmp_path) as kept:
        yield kept


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
