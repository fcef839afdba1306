"""The numbers of an adapter that deleted revisions hold: they are never reused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import IS_DELETION, Adapter, EventRecord, Revision
from registry.catalogue.database.visibility import INCLUDE_DELETED
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import revisions
from registry.reference import Path
from registry.schemas import DeletedRevision

_AT_ONCE: Final = 1000
"""Numbers that are looked at together."""

_Missing = tuple[int, datetime | None]
"""A number that no revision has, and when its row was marked as deleted; None: it has no row."""


def deleted(
    session: Session,
    path: Path,
    now: datetime,
    grace: timedelta,
    *,
    before: int | None = None,
    above: int = 0,
    limit: int | None = None,
) -> tuple[DeletedRevision, ...]:
    """What was deleted of an adapter and not restored, by falling numbers; also of one that has nothing else left.

    Those between two numbers, at most ``limit``.

    Raises:
        NotFoundError: there is no such adapter, and never was; offers the nearest.
        UsageError: the path names a base model.
    """
    missing = _missing(session, path, before, above)
    found = tuple(islice(_known(session, path, missing, now, grace), limit))
    if not found and before is None and not above:
        revisions.adapter(session, path)
    return found


def _missing(session: Session, path: Path, before: int | None, above: int) -> Iterator[_Missing]:
    """The numbers between these that were given and that no revision has, the highest first."""
    query = select(Adapter.id, Adapter.next_number, Adapter.live_revisions).where(Adapter.path == str(path))
    adapter = session.execute(query).one_or_none()
    if adapter is None or adapter.live_revisions == adapter.next_number - 1:
        return
    end = adapter.next_number if before is None else min(before, adapter.next_number)
    for top in range(end, above + 1, -_AT_ONCE):
        numbers = range(max(above + 1, top - _AT_ONCE), top)
        rows = select(Revision.number, Revision.deleted_at).where(
            Revision.adapter_id == adapter.id, Revision.number >= numbers[0], Revision.number < top
        )
        there = dict(session.execute(rows, execution_options=INCLUDE_DELETED).all())
        for number in reversed(numbers):
            if number not in there or there[number] is not None:
                yield number, there.get(number)


def _known(
    session: Session, path: Path, missing: Iterable[_Missing], now: datetime, grace: timedelta
) -> Iterator[DeletedRevision]:
    """Those of the numbers that have a row, or an event that tells of their deletion."""
    for part in parts(missing):
        noted = _noted(session, [f"{path}@{number}" for number, _ in part])
        for number, since in part:
            event = noted.get(f"{path}@{number}")
            if event is None and since is None:
                continue
            detail: Mapping[str, Any] = {} if event is None else event.detail
            yield DeletedRevision(
                reference=f"{path}@{number}",
                number=number,
                digest=detail.get("digest"),
                message=detail.get("message"),
                deleted_at=since if event is None else event.at,
                deleted_by=None if event is None else event.actor,
                until=since + grace if since is not None and since + grace > now else None,
            )


def _noted(session: Session, references: list[str]) -> dict[str, EventRecord]:
    """The last deletion of each."""
    query = select(EventRecord).where(IS_DELETION, EventRecord.action == "delete", EventRecord.subject.in_(references))
    return {event.subject: event for event in session.scalars(query.order_by(EventRecord.id))}
