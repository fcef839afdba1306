"""Registries of a team in process: a database of their own on the run's PostgreSQL, a bucket of their own on its S3."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.services.local import LocalRegistry
from registry.storage.s3 import S3Driver
from tests.kit.servers import S3Place


def open_team(request: pytest.FixtureRequest, *, cache_folder: Path) -> LocalRegistry:
    """A new, empty registry; close it."""
    database: str = request.getfixturevalue("postgres_migrated_url")
    store: S3Place = request.getfixturevalue("s3_store")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in store.environ.items():
        monkeypatch.setenv(name, value)
    return LocalRegistry.of(database, S3Driver(store.url), cache_folder=cache_folder)
