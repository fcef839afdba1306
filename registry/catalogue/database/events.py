"""The audit log: changes, written in the transaction of the change itself, and denials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import EventRecord, table_of
from registry.catalogue.database.visibility import rights_of
from registry.errors import RegistryError, UsageError
from registry.reference import Path
from registry.rights import Principal, Rights
from registry.schemas import Event

RENAMES: Final = ("rename", "base rename")
"""Actions of events that name another subject, too, in ``from`` or ``to``."""

_INSERT: Final = insert(table_of(EventRecord)).inline()  # nobody asks for the key


@dataclass(frozen=True)
class EventPage:
    """Events, newest first; ``next`` is the ``before`` of the page after this one, None after the last."""

    events: tuple[Event, ...]
    next: int | None


def record(session: Session, action: str, subject: str, principal: Principal, detail: Mapping[str, object]) -> None:
    """Record a change of ``subject`` (a base model, a path, a reference, or the id of a token)."""
    session.execute(
        _INSERT,
        {
            "at": datetime.now(UTC),
            "action": action,
            "subject": subject,
            "actor": principal.name,
            "detail": dict(detail),
            "token": principal.token,
            "source": principal.source,
        },
    )


def record_denial(session: Session, action: str, subject: str, principal: Principal, error: RegistryError) -> None:
    """Record that ``action`` on ``subject`` was denied, with the message."""
    record(session, "refused", subject, principal, {"tried": action, "code": error.code, "why": str(error)})


def recent(session: Session, limit: int, before: int | None = None) -> tuple[Event, ...]:
    """The newest events, newest first.

    Raises:
        UsageError: ``limit`` is not positive.
    """
    return page(session, limit, before).events


def page(session: Session, limit: int, before: int | None = None) -> EventPage:
    """The same as a page.

    Raises:
        UsageError: ``limit`` is not positive.
    """
    if limit < 1:
        raise UsageError(f"The limit of events is {limit}: 1 or more is expected.")
    rows, following = (_rows_by_key if _sees_all(session) else _rows_by_count)(session, min(limit, 1 << 31), before)
    rights = rights_of(session)
    events = tuple(
        Event(
            at=row.at,
            action=row.action,
            subject=row.subject,
            actor=row.actor,
            detail=_visible_detail(row, rights),
            token=row.token,
            source=row.source,
        )
        for row in rows
    )
    return EventPage(events, following)


def _visible_detail(row: EventRecord, rights: Rights) -> dict[str, object]:
    """The detail of an event; of a rename without the other name where the rights don't cover it."""
    if row.action not in RENAMES:
        return row.detail
    hidden = [key for key in ("from", "to") if key in row.detail and not rights.sees(Path.parse(row.detail[key]))]
    return {key: value for key, value in row.detail.items() if key not in hidden}


def _sees_all(session: Session) -> bool:
    rights = rights_of(session)
    return rights.unlimited and rights.role == "admin"


def _rows_by_key(session: Session, limit: int, before: int | None) -> tuple[Sequence[EventRecord], int | None]:
    query = select(EventRecord).order_by(EventRecord.id.desc()).limit(limit + 1)
    rows = session.scalars(query if before is None else query.where(EventRecord.id < before)).all()
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def _rows_by_count(session: Session, limit: int, before: int | None) -> tuple[Sequence[EventRecord], int | None]:
    """Paginated by offset: keys would disclose how much happens outside the scopes."""
    older = session.scalar(select(func.count(EventRecord.id))) or 0
    older = older if before is None else min(before, older)
    skipped = max(0, older - limit)
    query = select(EventRecord).order_by(EventRecord.id).offset(skipped).limit(older - skipped)
    return session.scalars(query).all()[::-1], skipped or None
