"""Replicas: the processes that answer requests, each as it last wrote of itself."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from registry.catalogue.database.team_tables import ReplicaRecord
from registry.schemas.jobs import Replica, ReplicaFigures

BEAT: Final = timedelta(seconds=30)
"""How often a replica writes its row."""
SILENT: Final = 3 * BEAT
"""A replica that wrote nothing for longer does not answer any more, or can't reach the database."""
KEPT: Final = timedelta(days=1)
"""How long the row of a replica that ended without removing it is kept."""


def note(session: Session, replica: Replica) -> None:
    """Write the row of a replica, and remove those of replicas that are long gone."""
    values = {
        "host": replica.host,
        "process": replica.process,
        "worker": replica.worker,
        "version": replica.version,
        "processor": replica.processor,
        "numerics": replica.numerics,
        "started_at": replica.started_at,
        "seen_at": replica.seen_at,
        "figures": replica.figures.model_dump(),
    }
    done: Any = session.execute(update(ReplicaRecord).where(ReplicaRecord.id == replica.id).values(**values))
    if not cast(int, done.rowcount):  # nobody else writes this row
        session.add(ReplicaRecord(id=replica.id, **values))
    session.execute(delete(ReplicaRecord).where(ReplicaRecord.seen_at < replica.seen_at - KEPT))


def remove(session: Session, replica_id: str) -> None:
    """Remove the row of a replica that ends."""
    session.execute(delete(ReplicaRecord).where(ReplicaRecord.id == replica_id))


def listing(session: Session, now: datetime) -> tuple[Replica, ...]:
    """All replicas, by host and process."""
    rows = session.scalars(select(ReplicaRecord))
    return tuple(sorted((_replica(row, now) for row in rows), key=lambda one: (one.host, one.process, one.id)))


def _replica(row: ReplicaRecord, now: datetime) -> Replica:
    known = ReplicaFigures.model_fields  # a replica of another version may tell more, or less
    return Replica(
        id=row.id,
        host=row.host,
        process=row.process,
        worker=row.worker,
        version=row.version,
        processor=row.processor,
        numerics=row.numerics,
        started_at=row.started_at,
        seen_at=row.seen_at,
        answers=now - row.seen_at < SILENT,
        figures=ReplicaFigures(**{name: value for name, value in row.figures.items() if name in known}),
    )
