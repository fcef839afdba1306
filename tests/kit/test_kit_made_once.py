"""What tests take instead of the real thing, because it is slow, is the real thing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from registry.catalogue.database import migrations
from registry.services.local import LocalRegistry

MIGRATE = migrations.upgrade  # before `made_once` takes its place


def dump(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "registry.db")) as database:
        return [*database.iterdump(), *map(str, database.execute("PRAGMA journal_mode"))]


def test_a_repeated_schema_is_what_the_migrations_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "repeated"):
        LocalRegistry.open(tmp_path / name).close()
    monkeypatch.setattr(migrations, "upgrade", MIGRATE)
    LocalRegistry.open(tmp_path / "migrated").close()
    assert dump(tmp_path / "repeated") == dump(tmp_path / "migrated") == dump(tmp_path / "first")
