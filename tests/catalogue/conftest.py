"""A catalogue of its own for each test: as a file of SQLite, and as a database of a real PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.catalogue.database import migrations
from registry.catalogue.database.database import Database, sqlite_url
from registry.catalogue.store import blobs
from tests.catalogue.rows import Writer
from tests.kit.servers_shared import SharedServers

MIGRATE = migrations.upgrade  # before `made_once` takes its place


@pytest.fixture(autouse=True)
def real_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "upgrade", MIGRATE)


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> str:
    """Which database; tests of one alone are marked with `ON_SQLITE` or `ON_POSTGRESQL`."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty migrated database to copy, for tests that need many."""
    path = tmp_path_factory.mktemp("template") / "catalogue.sqlite"
    made = Database(sqlite_url(path))
    made.prepare()
    made.dispose()
    return path


@pytest.fixture
def empty_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A database without a schema."""
    if backend == "sqlite":
        return sqlite_url(tmp_path / "catalogue.sqlite")
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A database with the schema, and no rows but those of `filled` if the test takes it."""
    filled = "filled" in request.fixturenames
    if backend == "sqlite":
        shutil.copy(request.getfixturevalue("filled_template" if filled else "template"), tmp_path / "catalogue.sqlite")
        return sqlite_url(tmp_path / "catalogue.sqlite")
    url: str = request.getfixturevalue("postgres_filled_url" if filled else "postgres_migrated_url")
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url)
    yield made
    made.dispose()


@pytest.fixture
def filled(database: Database) -> Database:
    """llama/support@1..2, llama/support/french@1 (on support@1), llama/support/french/legal@1, llama/code@1."""
    with database.write():
        return database  # its rows came with the copy that `url` made; the pool has a connection, as after a change


def fill(url: str) -> None:
    """Write what `filled` has: once, all tests get copies."""
    database, writer = Database(url), Writer()
    with database.write() as session:
        writer.base(session, "llama")
        support = writer.publish(session, "llama/support", "s1", tag="prod", metrics={"acc": 0.5})
        french = writer.publish(session, "llama/support/french", "f1", support, notes={"team": "Straße"}, rank=16)
        writer.publish(session, "llama/support/french/legal", "l1", french)
        writer.publish(session, "llama/support", "s2", metrics={"acc": 0.75, "loss": -1.5})
        writer.publish(session, "llama/code", "c1", message="Über 100% of code_lines", rank=64)
    database.dispose()


@pytest.fixture(scope="session")
def filled_template(template: Path) -> Path:
    path = template.with_name("filled.sqlite")
    shutil.copy(template, path)
    fill(sqlite_url(path))
    return path


@pytest.fixture(scope="session")
def postgres_filled_template(shared_servers: SharedServers) -> Iterator[str]:
    with shared_servers.postgres(migrated=True) as url:
        fill(url)
        yield url


@pytest.fixture
def postgres_filled_url(shared_servers: SharedServers, postgres_filled_template: str) -> Iterator[str]:
    with shared_servers.postgres_like(postgres_filled_template) as url:
        yield url


@pytest.fixture
def whole_batches() -> None:
    """For tests of the statements themselves: as many keys in each as there are in use."""


@pytest.fixture(autouse=True)
def small_batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key in a statement: what is done for many rows takes many in every test, and none may be left out."""
    if "whole_batches" not in request.fixturenames:
        monkeypatch.setattr(blobs, "AT_ONCE", 1)
