"""Tombstones: keys of orphaned objects that a collector removes, reserved so that no row can name them any more.

A tombstone is a row under a digest that no bytes have; keys are unique, so a publisher that stored the object long ago
and has not committed yet is refused instead of writing a dangling row. Tombstones outlive any publish by far.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Executable, delete, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Blob
from registry.catalogue.database.team_tables import UploadRecord
from registry.catalogue.store.blobs import parts
from registry.digest import PREFIX

LIFETIME: Final = timedelta(days=30)
REAL: Final = PREFIX
"""Digests of bytes sort after this, those of tombstones before it."""
_MARK: Final = "condemned:"


def named(session: Session, keys: Iterable[str]) -> frozenset[str]:
    """Those keys that the row of a blob or of an upload names; objects under others are orphans."""
    found: set[str] = set()
    for part in parts(keys):
        found.update(session.scalars(select(Blob.key).where(Blob.key.in_(part), Blob.digest > REAL)))
        for length in set(map(len, part)):
            joined = func.substr(UploadRecord.multipart, 1, length)  # see `registry.storage.staging.Staging`
            found.update(session.scalars(select(joined).where(joined.in_(part))))
    return frozenset(found)


def add(session: Session, keys: Iterable[str]) -> frozenset[str]:
    """Reserve keys; returns those that no row names, whose objects may be removed."""
    now = datetime.now(UTC)
    condemned: set[str] = set()
    for part in parts(sorted(set(keys))):
        rows = [
            {"digest": _MARK + key, "key": key, "size": 0, "blocks_digest": "", "created_at": now, "used_at": now}
            for key in part
        ]
        session.execute(_insert_new(session), rows)
        marks = [row["digest"] for row in rows]
        condemned.update(session.scalars(select(Blob.key).where(Blob.digest.in_(marks))))
    return frozenset(condemned)


def forget(session: Session, before: datetime) -> None:
    """Delete tombstones that were made before then."""
    session.execute(delete(Blob).where(Blob.digest < REAL, Blob.used_at < before))


def _insert_new(session: Session) -> Executable:
    # The same clause on both, but no common construct for it.
    if session.get_bind().dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # slow to import, and not needed with SQLite

        return postgresql.insert(Blob).on_conflict_do_nothing()
    return sqlite.insert(Blob).on_conflict_do_nothing()
