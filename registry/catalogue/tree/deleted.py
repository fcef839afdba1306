"""The numbers of an adapter that deleted revisions hold: they are never reused."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Adapter, EventRecord, Revision
from registry.catalogue.database.visibility import INCLUDE_DELETED, is_revision_of
from registry.catalogue.tree import revisions
from registry.reference import Path, Reference
from registry.schemas import DeletedRevision


def deleted(session: Session, path: Path, now: datetime, grace: timedelta) -> tuple[DeletedRevision, ...]:
    """What was deleted of an adapter and not restored, by falling numbers; also of one that has nothing else left.

    Raises:
        NotFoundError: there is no such adapter, and never was; offers the nearest.
        UsageError: the path names a base model.
    """
    rows = _rows(session, path)
    noted = _noted(session, path)
    numbers = {number for number, deleted_at in rows.items() if deleted_at is not None} | (noted.keys() - rows.keys())
    if not numbers:
        revisions.adapter(session, path)
    found = []
    for number in sorted(numbers, reverse=True):
        event = noted.get(number)
        since = rows.get(number)
        detail: Mapping[str, Any] = {} if event is None else event.detail
        found.append(
            DeletedRevision(
                reference=f"{path}@{number}",
                number=number,
                digest=detail.get("digest"),
                message=detail.get("message"),
                deleted_at=since if event is None else event.at,
                deleted_by=None if event is None else event.actor,
                until=since + grace if since is not None and since + grace > now else None,
            )
        )
    return tuple(found)


def _rows(session: Session, path: Path) -> dict[int, datetime | None]:
    """When the adapter's revisions that have a row were deleted, by number; None: they were not."""
    query = select(Revision.number, Revision.deleted_at).join(Adapter, Adapter.id == Revision.adapter_id)
    found = session.execute(query.where(Adapter.path == str(path)), execution_options=INCLUDE_DELETED)
    return dict(found.all())


def _noted(session: Session, path: Path) -> dict[int, EventRecord]:
    """The last deletion of each number."""
    query = select(EventRecord).where(EventRecord.action == "delete", is_revision_of(path, EventRecord.subject))
    found: dict[int, EventRecord] = {}
    for event in session.scalars(query.order_by(EventRecord.id)):
        number = Reference.parse(event.subject).number
        if number is not None:
            found[number] = event
    return found
