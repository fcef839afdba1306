"""Registries for the tests of gc, fsck and copy: a folder, and a team's with PostgreSQL and S3."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from registry.catalogue.database.database import Database, sqlite_url
from registry.catalogue.database.tables import BaseModelRecord, Blob, Revision
from registry.catalogue.database.visibility import INCLUDE_DELETED
from registry.folders.staging import FetchCache
from registry.rights import UNLIMITED, Principal
from registry.services.deployment import Deployment
from registry.services.local import LocalRegistry
from registry.storage.blobs import BlobStore
from registry.storage.filesystem import FilesystemDriver
from tests.kit.registries import ON_TEAM
from tests.kit.servers import S3Place

KINDS = ("embedded", ON_TEAM)


@dataclass(frozen=True)
class Place:
    """A registry of a test, and what lies below it."""

    deployment: Deployment
    registry: LocalRegistry
    spec: str  # for `open_deployment` in another process
    folder: Path  # what the store's machine has
    environ: dict[str, str] = field(default_factory=dict)

    def objects(self) -> list[str]:
        return [one.key for one in self.deployment.blobs.objects()]

    def file(self, key: str) -> Path:
        """Where the bytes of an object are."""
        return next(path for path in self.folder.rglob(key.rpartition("/")[2]) if key in str(path))

    def age(self, by: timedelta) -> None:
        """Let everything in the catalogue have been used, and what is deleted have been deleted, so much earlier."""
        with self.deployment.database.write() as session:
            for blob in session.scalars(select(Blob)):
                blob.used_at = blob.used_at - by
            for gone in (select(Revision), select(BaseModelRecord)):
                for row in session.scalars(gone, execution_options=INCLUDE_DELETED):
                    if row.deleted_at is not None:
                        row.deleted_at -= by


def open_deployment(spec: str) -> Deployment:
    """What works on the registry of a `Place`, in whatever process."""
    given = json.loads(spec)
    if given["store"].startswith("s3://"):
        from registry.storage.s3 import S3Driver

        store = BlobStore(S3Driver(given["store"]))
    else:
        store = BlobStore(FilesystemDriver(Path(given["store"])))
    return Deployment(Database(given["database"]), store, Principal("anna", UNLIMITED), given["store"])


def open_registry(spec: str, deployment: Deployment) -> LocalRegistry:
    """The same, as its users see it."""
    return LocalRegistry(deployment, lambda: FetchCache(Path(json.loads(spec)["cache"]), 1 << 30))


@contextmanager
def open_place(
    request: pytest.FixtureRequest, folder: Path, kind: str | None = None, template: Path | None = None
) -> Iterator[Place]:
    """A new registry of the kind that a test is parametrised with; a folder begins as a copy of ``template``."""
    kind = kind or request.param
    cache = str(folder.with_name(f"{folder.name}-cache"))
    environ: dict[str, str] = {}
    if kind == "team":
        s3: S3Place = request.getfixturevalue("s3_store")
        url = request.getfixturevalue("postgres_migrated_url")
        monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        environ = s3.environ
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        spec = json.dumps({"database": url, "store": s3.url, "cache": cache})
        folder = s3.folder
    else:
        if template is None:
            folder.mkdir()
        else:
            shutil.copytree(template, folder)
        spec = json.dumps({"database": sqlite_url(folder / "registry.db"), "store": str(folder), "cache": cache})
    deployment = open_deployment(spec)
    registry = open_registry(spec, deployment)
    if kind == "embedded":
        deployment.database.prepare()
    try:
        yield Place(deployment, registry, spec, folder, environ)
    finally:
        registry.close()
