"""The audit log: changes, written in the transaction of the change itself, and denials."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import and_, func, insert, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import EventRecord, table_of
from registry.catalogue.database.visibility import in_subtree, is_revision_of, rights_of
from registry.errors import RegistryError, UsageError
from registry.reference import Path
from registry.rights import Principal, Rights
from registry.schemas import Event
from registry.schemas.team import EVENT_KINDS, EventKind
from registry.schemas.texts import check_text

RENAMES: Final = ("rename", "base rename")
"""Actions of events that name another subject, too, in ``from`` or ``to``."""

_ABOUT_NO_PATH: Final = ("gc", "token create", "token revoke")
_INSERT: Final = insert(table_of(EventRecord)).inline()  # nobody asks for the key


@dataclass(frozen=True)
class EventFilter:
    """Conditions that an event has to meet; None: any."""

    path: Path | None = None  # of what it is about, or of what that is under
    after: datetime | None = None  # or at this very time
    actor: str | None = None
    kind: str | None = None  # its action

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of a query.

        Raises:
            UsageError: there is no such kind, or the name of the actor is no text that can be kept.
        """
        found: list[ColumnElement[bool]] = []
        if self.path is not None:
            found += [_is_about(self.path), EventRecord.action.not_in(_ABOUT_NO_PATH)]
        if self.after is not None:
            found.append(EventRecord.at >= self.after)
        if self.actor is not None:
            found.append(EventRecord.actor == check_text("The name of the actor", self.actor))
        if self.kind is not None:
            found.append(EventRecord.action == _known(self.kind))
        return found


ANY: Final = EventFilter()


@dataclass(frozen=True)
class EventPage:
    """Events, newest first; ``next`` is the ``before`` of the page after this one, None after the last."""

    events: tuple[Event, ...]
    next: int | None


def record(
    session: Session, action: EventKind, subject: str, principal: Principal, detail: Mapping[str, object]
) -> None:
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


def recent(session: Session, limit: int, conditions: EventFilter = ANY) -> tuple[Event, ...]:
    """The newest events, newest first.

    Raises:
        UsageError: ``limit`` is not positive, or what `EventFilter.conditions` raises.
    """
    return page(session, limit, None, conditions).events


def page(session: Session, limit: int, before: int | None = None, conditions: EventFilter = ANY) -> EventPage:
    """The same as a page; ``before`` is of a page with the same conditions.

    Raises:
        UsageError: ``limit`` is not positive, or what `EventFilter.conditions` raises.
    """
    if limit < 1:
        raise UsageError(f"The limit of events is {limit}: 1 or more is expected.")
    read = _rows_by_key if _sees_all(session) else _rows_by_count
    rows, following = read(session, conditions.conditions(), min(limit, 1 << 31), before)
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


_Rows = tuple[Sequence[EventRecord], int | None]


def _rows_by_key(session: Session, conditions: Sequence[ColumnElement[bool]], limit: int, before: int | None) -> _Rows:
    query = select(EventRecord).where(*conditions).order_by(EventRecord.id.desc()).limit(limit + 1)
    rows = session.scalars(query if before is None else query.where(EventRecord.id < before)).all()
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def _rows_by_count(
    session: Session, conditions: Sequence[ColumnElement[bool]], limit: int, before: int | None
) -> _Rows:
    """Paginated by offset: keys would disclose how much happens outside the scopes."""
    older = session.scalar(select(func.count(EventRecord.id)).where(*conditions)) or 0
    older = older if before is None else min(before, older)
    skipped = max(0, older - limit)
    query = select(EventRecord).where(*conditions).order_by(EventRecord.id).offset(skipped).limit(older - skipped)
    return session.scalars(query).all()[::-1], skipped or None


def _is_about(path: Path) -> ColumnElement[bool]:
    """The condition that the subject is a path, one of its revisions, or under it."""
    subject = EventRecord.subject
    # One range of the index, which begins and ends with what is meant; "A" is the character after "@".
    near = and_(subject >= str(path), subject < f"{path}A")
    return and_(near, or_(in_subtree(path, subject), is_revision_of(path, subject)))


def _known(kind: str) -> str:
    if kind not in EVENT_KINDS:
        near = difflib.get_close_matches(kind, EVENT_KINDS, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"There is no kind of event {kind!r}.{meant} The kinds are: {', '.join(EVENT_KINDS)}.")
    return kind
