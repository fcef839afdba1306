"""What was changed, by whom: written in the transaction of the change itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.tables import EventRecord
from registry.errors import UsageError
from registry.schemas import Event


def record(session: Session, action: str, subject: str, actor: str, detail: Mapping[str, object]) -> None:
    """Note a change of ``subject`` (a base model, a path or a reference)."""
    session.add(EventRecord(at=datetime.now(UTC), action=action, subject=subject, actor=actor, detail=dict(detail)))


def recent(session: Session, limit: int) -> tuple[Event, ...]:
    """The newest events, newest first.

    Raises:
        UsageError: ``limit`` is not positive.
    """
    if limit < 1:
        raise UsageError(f"A limit of {limit} events is not possible: 1 or more is expected.")
    rows = session.scalars(select(EventRecord).order_by(EventRecord.id.desc()).limit(min(limit, 1 << 31)))
    return tuple(
        Event(at=row.at, action=row.action, subject=row.subject, actor=row.actor, detail=row.detail) for row in rows
    )
