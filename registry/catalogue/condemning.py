"""Objects that a collector removes though no row names them: condemned first, so that no row can name them any more.

A condemned key has a row of its own, under a digest that no bytes have; keys are unique, so whoever stored the object
and has not published it yet, however long ago that was, is refused instead of publishing a row that points at nothing.
The rows outlive their objects by far more than any publisher takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Executable, delete, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session

from registry.catalogue.blobs import parts
from registry.catalogue.tables import Blob
from registry.digest import PREFIX

LIFETIME: Final = timedelta(days=30)
REAL: Final = PREFIX
"""Digests of bytes sort after this, those of condemned keys before it."""
_MARK: Final = "condemned:"


def named(session: Session, keys: Iterable[str]) -> frozenset[str]:
    """Those keys under which the catalogue has bytes; what is under another one is an orphan."""
    found: set[str] = set()
    for part in parts(keys):
        found.update(session.scalars(select(Blob.key).where(Blob.key.in_(part), Blob.digest > REAL)))
    return frozenset(found)


def condemn(session: Session, keys: Iterable[str]) -> frozenset[str]:
    """Keep rows from naming these keys; the answer is those that none names, so that their objects may go."""
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


def count(session: Session, since: datetime) -> int:
    """How many keys were condemned since then."""
    found = select(func.count()).select_from(Blob).where(Blob.digest < REAL, Blob.used_at >= since)
    return session.scalar(found) or 0


def forget(session: Session, before: datetime) -> None:
    """Forget keys that were condemned before then."""
    session.execute(delete(Blob).where(Blob.digest < REAL, Blob.used_at < before))


def _insert_new(session: Session) -> Executable:
    # The same clause on both, but no common construct for it.
    if session.get_bind().dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # slow to import, and not needed with SQLite

        return postgresql.insert(Blob).on_conflict_do_nothing()
    return sqlite.insert(Blob).on_conflict_do_nothing()
