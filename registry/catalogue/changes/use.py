"""Adds uses of revisions to their counts, a row a day, and forgets old counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select, tuple_
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Adapter, Revision
from registry.catalogue.database.team_tables import LoadRecord, UseRecord
from registry.catalogue.database.upsert import insert_new, insert_or_add
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED
from registry.catalogue.store.blobs import parts
from registry.schemas.usage import Counted, Load, UseKey

KEPT: Final = timedelta(days=400)
LOADS_KEPT: Final = timedelta(days=40)


def add(session: Session, uses: Mapping[UseKey, Counted]) -> None:
    """Add uses to what is counted already; those of revisions that do not exist any more are dropped."""
    keys = _keys(session, {(use.path, use.number) for use in uses})
    # In one order, so that replicas that add the same rows wait for each other instead of deadlocking.
    rows = [
        {
            "revision_id": keys[use.path, use.number],
            "day": use.day,
            "interface": use.interface,
            "who": use.who,
            "count": uses[use].count,
            "last_used_at": uses[use].last_used_at,
        }
        for use in sorted(uses)
        if (use.path, use.number) in keys
    ]
    if rows:
        session.execute(insert_or_add(UseRecord, session, UseRecord.count, UseRecord.last_used_at), rows)


def add_loads(session: Session, loads: Sequence[Load]) -> None:
    """Record loads, in their order; those of revisions that do not exist any more are dropped."""
    keys = _keys(session, {(load.path, load.number) for load in loads})
    rows = [
        {"revision_id": keys[load.path, load.number], "who": load.who, "hour": load.hour, "weights": load.weights}
        for load in loads
        if (load.path, load.number) in keys
    ]
    if rows:
        session.execute(insert_new(LoadRecord, session), rows)


def _keys(session: Session, revisions: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Keys of revisions by path and number; also of deleted ones, whose deletion may be undone."""
    found: dict[tuple[str, int], int] = {}
    for part in parts(sorted(revisions)):
        query = select(Adapter.path, Revision.number, Revision.id).join(Adapter, Adapter.id == Revision.adapter_id)
        query = query.where(tuple_(Adapter.path, Revision.number).in_(part))
        for path, number, key in session.execute(query, execution_options={**IGNORE_RIGHTS, **INCLUDE_DELETED}):
            found[path, number] = key
    return found


def forget(session: Session, now: datetime) -> None:
    """Remove counts and loads that are older than they are kept."""
    session.execute(delete(UseRecord).where(UseRecord.day < (now - KEPT).date()))
    session.execute(delete(LoadRecord).where(LoadRecord.hour < now - LOADS_KEPT))
