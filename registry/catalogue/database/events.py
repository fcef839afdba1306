"""The audit log: changes, written in the transaction of the change itself, and denials."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Select, and_, func, insert, or_, select
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.probes import finds
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

FEW: Final = 10_000
"""Events that an index may give to be put in order."""

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
            found.append(and_(_is_about(self.path), EventRecord.action.not_in(_ABOUT_NO_PATH)))
        if self.after is not None:
            found.append(EventRecord.at >= self.after)
        if self.actor is not None:
            found.append(EventRecord.actor == check_text("The name of the actor", self.actor))
        if self.kind is not None:
            found.append(EventRecord.action == _known(self.kind))
        return found

    def in_order(self, events: type[EventRecord]) -> list[ColumnElement[bool]]:
        """Those of the conditions of which each has an index that gives what meets it in order."""
        found: list[ColumnElement[bool]] = []
        if self.actor is not None:
            found.append(events.actor == self.actor)
        if self.kind is not None:
            found.append(events.action == self.kind)
        return found


ANY: Final = EventFilter()


@dataclass(frozen=True)
class EventPosition:
    """Where a page ends: at the ``place``-th of the events of this time that the rights see, by key from 1.

    The key itself would disclose how much happens outside the scopes.
    """

    at: datetime
    place: int


@dataclass(frozen=True)
class EventPage:
    """Events, newest first; ``next`` is the ``before`` of the page after this one, None after the last."""

    events: tuple[Event, ...]
    next: EventPosition | None


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


def page(session: Session, limit: int, before: EventPosition | None = None, conditions: EventFilter = ANY) -> EventPage:
    """The same as a page; ``before`` is of a page with the same conditions.

    Raises:
        UsageError: ``limit`` is not positive, no page gave ``before``, or what `EventFilter.conditions` raises.
    """
    if limit < 1:
        raise UsageError(f"The limit of events is {limit}: 1 or more is expected.")
    limit = min(limit, 1 << 31)
    last = None if before is None else _key_at(session, before)
    rows = session.scalars(_found(session, conditions, last).limit(limit + 1)).all()
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
        for row in rows[:limit]
    )
    return EventPage(events, _position(session, rows[limit - 1]) if len(rows) > limit else None)


def _visible_detail(row: EventRecord, rights: Rights) -> dict[str, object]:
    """The detail of an event; of a rename without the other name where the rights don't cover it."""
    if row.action not in RENAMES:
        return row.detail
    hidden = [key for key in ("from", "to") if key in row.detail and not rights.sees(Path.parse(row.detail[key]))]
    return {key: value for key, value in row.detail.items() if key not in hidden}


def _position(session: Session, row: EventRecord) -> EventPosition:
    same = select(func.count()).select_from(EventRecord).where(EventRecord.at == row.at, EventRecord.id <= row.id)
    return EventPosition(row.at, session.scalar(same) or 0)


def _key_at(session: Session, position: EventPosition) -> int:
    same = select(EventRecord.id).where(EventRecord.at == position.at).order_by(EventRecord.id)
    found = session.scalar(same.offset(max(0, position.place - 1)).limit(1))
    if found is None:
        raise UsageError("There is no event at the position to continue from; start from the beginning.")
    return found


def _found(session: Session, conditions: EventFilter, last: int | None) -> Select[EventRecord]:
    """The events below a key that meet all conditions, newest first: few by an index, many by walking down the keys."""
    walked = aliased(EventRecord)  # no criterion of the rights is added to it: each is looked up as what is seen
    seen = select(EventRecord.id).where(EventRecord.id == walked.id, *conditions.conditions()).correlate(walked)
    query = select(walked).where(*conditions.in_order(walked), finds(seen)).order_by(walked.id.desc())
    if last is not None:
        query = query.where(walked.id < last)
    few = _few(session, conditions)
    return query if few is None else query.where(walked.id.in_(few))


def _few(session: Session, conditions: EventFilter) -> Select[int] | None:
    """The keys of what meets the condition that the fewest meet; None where each is met by more than `FEW`."""
    narrow = [[one] for one in conditions.conditions()] + ([] if rights_of(session).unlimited else [[]])
    if len(narrow) == len(conditions.in_order(EventRecord)) <= 1:  # an index has all that it gives in order
        return None
    found = [select(EventRecord.id).where(*one).limit(FEW + 1) for one in narrow]
    counts = [select(func.count()).select_from(one.subquery()).scalar_subquery() for one in found]
    counted = zip(session.execute(select(*counts)).one(), found, strict=True)
    least, few = min(counted, key=lambda pair: pair[0])
    return few if least <= FEW else None


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
