"""What tests take instead of the real thing, because it is slow, is the real thing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import bindparam, select

from registry.app import service_app
from registry.catalogue.database import migrations, prepared
from registry.catalogue.database.database import Database, sqlite_url
from registry.catalogue.database.prepared import Prepared
from registry.catalogue.database.tables import BaseModelRecord
from registry.rights import UNLIMITED
from registry.services.local import LocalRegistry
from tests.kit import llama_base
from tests.kit.library import running

MIGRATE = migrations.upgrade  # before `made_once` takes its place
REAL_STATEMENT = prepared.statement


def dump(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "registry.db")) as database:
        return [*database.iterdump(), *map(str, database.execute("PRAGMA journal_mode"))]


def test_a_repeated_schema_is_what_the_migrations_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "copied"):
        LocalRegistry.open(tmp_path / name).close()
    for name in ("once", "repeated"):
        database = Database(sqlite_url(tmp_path / name / "registry.db"))
        assert database.prepare() is not None
        database.dispose()
    monkeypatch.setattr(migrations, "upgrade", MIGRATE)
    LocalRegistry.open(tmp_path / "migrated").close()
    real = dump(tmp_path / "migrated")
    assert [dump(tmp_path / name) for name in ("first", "copied", "once", "repeated")] == [real] * 4


def test_a_copied_database_is_made_as_sqlite_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mode(folder: Path) -> str:
        LocalRegistry.open(folder).close()
        return oct((folder / "registry.db").stat().st_mode)

    for umask in (0o022, 0o077, 0o002):
        before = os.umask(umask)
        try:
            copied = mode(tmp_path / f"copied-{umask}")
            with monkeypatch.context() as patch:
                patch.setattr(migrations, "upgrade", MIGRATE)
                assert copied == mode(tmp_path / f"real-{umask}")
        finally:
            os.umask(before)


def test_prepared_queries_are_the_same_for_every_database(tmp_path: Path) -> None:
    one, two = (Database(sqlite_url(tmp_path / f"{name}.db"))._engine.dialect for name in ("one", "two"))
    assert one is not two
    query = Prepared(lambda _: select(BaseModelRecord.name).where(BaseModelRecord.name == bindparam("given")))
    shared = prepared.statement(query, one, UNLIMITED)
    assert prepared.statement(query, two, UNLIMITED) is shared
    real = REAL_STATEMENT(query, two, UNLIMITED)
    assert (real.text, real.names, real.constants) == (shared.text, shared.names, shared.constants)


def test_apps_share_what_is_made_of_routes_and_nothing_else(tmp_path: Path) -> None:
    """Each answers for its own registry, and refuses whom it does not know."""
    for name in ("one", "two"):
        with closing(LocalRegistry.open(tmp_path / name)) as mine, running(service_app(mine, anonymous="open")) as url:
            assert httpx.get(f"{url}/api/v1/bases", timeout=120).json()["items"] == []
            mine.add_base(name, llama_base(tmp_path / f"base-{name}").folder)
            found = httpx.get(f"{url}/api/v1/bases", timeout=120).json()["items"]
            assert [one["name"] for one in found] == [name]
