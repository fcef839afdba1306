"""The audit log: changes, written in the transaction of the change itself, and denials."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import BigInteger, Select, and_, false, func, insert, literal, not_, or_, select, union_all
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import STRETCH, EventRecord, in_stretch, table_of
from registry.catalogue.database.transactions import finds
from registry.catalogue.database.visibility import (
    Subject,
    is_revision_of,
    rights_of,
    subjects_about,
    subjects_in_scope,
)
from registry.errors import RegistryError, UsageError
from registry.reference import Path
from registry.rights import Principal, Rights
from registry.schemas import Event
from registry.schemas.form import check_text
from registry.schemas.team import EVENT_KINDS, EventKind

RENAMES: Final = ("rename", "base rename")
"""Actions of events that name another subject, too, in ``from`` or ``to``."""

FEW: Final = 10_000
"""Events that an index may give to be put in order."""

_ABOUT_NO_PATH: Final = ("gc", "fsck", "token create", "token revoke")
_EVENTS: Final = table_of(EventRecord)
_INSERT: Final = insert(_EVENTS).inline()  # nobody asks for the key


@dataclass(frozen=True)
class EventFilter:
    """Conditions that an event has to meet; None: any."""

    path: Path | None = None  # of what it is about, or of what that is under
    after: datetime | None = None  # or at this very time
    actor: str | None = None
    kind: str | None = None  # its action
    kinds: tuple[EventKind, ...] | None = None  # one of these actions
    alone: bool = False  # only what is about the path itself or its revisions, not what is below it

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions of a query.

        Raises:
            UsageError: the kind is unknown, or the name of the actor can't be stored as text.
        """
        found: list[ColumnElement[bool]] = []
        if self.path is not None:
            found.append(and_(or_(*self.subjects(EventRecord.subject)), EventRecord.action.not_in(_ABOUT_NO_PATH)))
        if self.after is not None:
            found.append(EventRecord.at >= self.after)
        if self.actor is not None:
            found.append(EventRecord.actor == check_text("The name of the actor", self.actor))
        if self.kind is not None:
            found.append(EventRecord.action == _known(self.kind))
        if self.kinds is not None:
            found.append(EventRecord.action.in_(self.kinds))
        return found

    def subjects(self, column: Subject) -> list[ColumnElement[bool]]:
        """The ranges of subjects of the path, in one of which each is."""
        if self.path is None:
            return []
        if self.alone:
            return [column == str(self.path), is_revision_of(self.path, column)]
        return subjects_about(self.path, column)

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
    last = None if before is None else key_at(session, before)
    rows = newest_below(session, conditions, last, limit + 1)
    rights = rights_of(session)
    events = tuple(shown(row, rights) for row in rows[:limit])
    return EventPage(events, _position(session, rows[limit - 1]) if len(rows) > limit else None)


_LATER: Final = 2000
"""Events that are read to tell what was set later; of more, only the newest tell."""


def later_metrics(session: Session, references: Collection[str]) -> dict[str, dict[str, EventRecord]]:
    """The last change of each metric that was set after its revision was published, by reference and name."""
    query = select(EventRecord).where(EventRecord.action == "annotate", EventRecord.subject.in_(references))
    found: dict[str, dict[str, EventRecord]] = {}
    for event in session.scalars(query.order_by(EventRecord.id.desc()).limit(_LATER)):
        if "metric" in event.detail:
            found.setdefault(event.subject, {}).setdefault(event.detail["metric"], event)
    return found


def shown(row: EventRecord, rights: Rights) -> Event:
    """An event as these rights see it."""
    return Event(
        at=row.at,
        action=row.action,
        subject=row.subject,
        actor=row.actor,
        detail=_visible_detail(row, rights),
        token=row.token,
        source=row.source,
    )


def _visible_detail(row: EventRecord, rights: Rights) -> dict[str, object]:
    """The detail of an event; of a rename without the other name if the rights don't cover it."""
    if row.action not in RENAMES:
        return row.detail
    hidden = [key for key in ("from", "to") if key in row.detail and not rights.sees(Path.parse(row.detail[key]))]
    return {key: value for key, value in row.detail.items() if key not in hidden}


def _position(session: Session, row: EventRecord) -> EventPosition:
    same = select(func.count()).select_from(EventRecord).where(EventRecord.at == row.at, EventRecord.id <= row.id)
    return EventPosition(row.at, session.scalar(same) or 0)


def key_at(session: Session, position: EventPosition) -> int:
    """The key of the event at a position.

    Raises:
        UsageError: no event that the rights see is there.
    """
    same = select(EventRecord.id).where(EventRecord.at == position.at).order_by(EventRecord.id)
    found = session.scalar(same.offset(max(0, position.place - 1)).limit(1))
    if found is None:
        raise UsageError("There is no event at the position to continue from; start from the beginning.")
    return found


def newest_below(session: Session, conditions: EventFilter, last: int | None, limit: int) -> Sequence[EventRecord]:
    """Events below a key that meet all conditions, newest first: few by an index, many by walking down the keys."""
    subjects = subjects_meant(rights_of(session), conditions)
    few = _few(session, conditions, subjects)
    if few is None and subjects is not None:
        return _by_stretches(session, conditions, subjects, last, limit)
    walked = aliased(EventRecord)  # no criterion of the rights is added to it: each is looked up as what is seen
    seen = select(EventRecord.id).where(EventRecord.id == walked.id, *conditions.conditions()).correlate(walked)
    query = select(walked).where(*conditions.in_order(walked), finds(seen)).order_by(walked.id.desc())
    if last is not None:
        query = query.where(walked.id < last)
    if few is not None:
        query = query.where(walked.id.in_(few))
    return session.scalars(query.limit(limit)).all()


def subjects_meant(rights: Rights, conditions: EventFilter) -> list[ColumnElement[bool]] | None:
    """Ranges of subjects, in one of which is that of every event that is meant; None: it may be any.

    Of the table itself, without criteria: what they find is looked at again as what is seen.
    """
    path = conditions.path
    if path is not None and rights.covers(path):
        return conditions.subjects(_EVENTS.c.subject)
    if rights.unlimited:
        return None
    scopes = tuple(one for one in rights.scopes if path is None or Rights("reader", (path,)).covers(one))
    return subjects_in_scope(Rights("reader", scopes), _EVENTS.c.subject)


def _few(
    session: Session, conditions: EventFilter, subjects: Sequence[ColumnElement[bool]] | None
) -> Select[int] | None:
    """The keys of what meets the condition that the fewest meet; None if each is met by more than `FEW`."""
    narrow = [select(EventRecord.id).where(one) for one in replace(conditions, path=None).conditions()]
    if subjects is not None:
        each = union_all(*(select(_EVENTS.c.id).where(one) for one in subjects or [false()])).subquery()
        narrow.append(select(each.c.id))
    if len(narrow) == len(conditions.in_order(EventRecord)) <= 1:  # an index has all that it gives in order
        return None
    found = [one.limit(FEW + 1) for one in narrow]
    counts = [select(func.count()).select_from(one.subquery()).scalar_subquery() for one in found]
    counted = zip(session.execute(select(*counts)).one(), found, strict=True)
    least, few = min(counted, key=lambda pair: pair[0])
    return few if least <= FEW else None


def _by_stretches(
    session: Session, conditions: EventFilter, subjects: Sequence[ColumnElement[bool]], last: int | None, limit: int
) -> Sequence[EventRecord]:
    """The same as `newest_below`, stretch by stretch of the keys: those without such a subject are passed over."""
    end = last or (session.scalar(select(func.max(_EVENTS.c.id))) or 0) + 1
    stretch = (end - 1) // STRETCH
    found: list[EventRecord] = []
    while len(found) < limit:
        stretch = session.scalars(_with_one_of(subjects, stretch)).one()
        if stretch < 0:
            break
        query = select(EventRecord).where(in_stretch(EventRecord.id) == stretch, EventRecord.id < end)
        query = query.where(*conditions.conditions()).order_by(EventRecord.id.desc())
        found += session.scalars(query.limit(limit - len(found)))
        stretch -= 1
    return found


def _with_one_of(subjects: Sequence[ColumnElement[bool]], stretch: int) -> Select[int]:
    """The newest stretch, of a number or below, in which is an event with one of these subjects; -1: none."""
    # No cast: what has an affinity SQLite does not compare by the index of an expression, which has none.
    stretches = select(literal(stretch, BigInteger).label("number")).cte("stretches", recursive=True)
    number = stretches.c.number
    # A probe for each range: of several together, SQLite would look at the whole stretch.
    probes = (select(_EVENTS.c.id).where(in_stretch(_EVENTS.c.id) == number, one) for one in subjects)
    there = (finds(probe.correlate(stretches)) for probe in probes)
    stretches = stretches.union_all(select(number - 1).where(number >= 0, not_(or_(*there))))
    return select(func.min(stretches.c.number))


def _known(kind: str) -> str:
    if kind not in EVENT_KINDS:
        near = difflib.get_close_matches(kind, EVENT_KINDS, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"There is no kind of event {kind!r}.{meant} The kinds are: {', '.join(EVENT_KINDS)}.")
    return kind
