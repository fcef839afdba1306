"""How the stored bytes grew, by the week in which they were stored."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Blob
from registry.schemas.jobs import StoredWeek

WEEKS: Final = 12
_WEEK: Final = timedelta(weeks=1)


def stored(session: Session) -> int:
    """Bytes of all blobs that are stored."""
    return int(session.scalar(select(func.coalesce(func.sum(Blob.size), 0))) or 0)  # a tombstone has no size


def weeks(session: Session, today: date) -> tuple[StoredWeek, ...]:
    """What was stored in each of the last weeks and is still there, oldest first; the last one is the current one."""
    monday = today - timedelta(days=today.weekday())
    starts = [monday - _WEEK * number for number in reversed(range(WEEKS))]
    sizes = session.execute(select(*(_between(start).scalar_subquery() for start in starts))).one()
    return tuple(StoredWeek(week=start, bytes=int(size)) for start, size in zip(starts, sizes, strict=True))


def _between(start: date) -> Select[Any]:
    begin = datetime(start.year, start.month, start.day, tzinfo=UTC)
    made = (Blob.created_at >= begin) & (Blob.created_at < begin + _WEEK)
    return select(func.coalesce(func.sum(Blob.size), 0)).where(made)
