"""A catalogue in a temporary folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.catalogue.database import Database, sqlite_url
from tests.catalogue.rows import Writer


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty migrated database to copy, for tests that need many."""
    path = tmp_path_factory.mktemp("template") / "catalogue.sqlite"
    made = Database(sqlite_url(path))
    made.prepare()
    made.dispose()
    return path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "catalogue.sqlite")


@pytest.fixture
def database(url: str, tmp_path: Path, template: Path) -> Iterator[Database]:
    shutil.copy(template, tmp_path / "catalogue.sqlite")
    made = Database(url)
    yield made
    made.dispose()


@pytest.fixture
def filled(database: Database, writer: Writer) -> Database:
    """llama/support@1..2, llama/support/french@1 (on support@1), llama/support/french/legal@1, llama/code@1."""
    with database.write() as session:
        writer.base(session, "llama")
        support = writer.publish(session, "llama/support", "s1", tag="prod", metrics={"acc": 0.5})
        french = writer.publish(session, "llama/support/french", "f1", support, notes={"team": "Straße"}, rank=16)
        writer.publish(session, "llama/support/french/legal", "l1", french)
        writer.publish(session, "llama/support", "s2", metrics={"acc": 0.75, "loss": -1.5})
        writer.publish(session, "llama/code", "c1", message="Über 100% of code_lines", rank=64)
    return database
