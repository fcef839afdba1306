"""Events one after the other, oldest first, from where a reader stopped: none is left out, and none comes twice.

They are in the order of their keys. A transaction of PostgreSQL takes the key of an event before it commits, so one
with a lower key may appear after others. An event is therefore given only when it is settled: when no transaction that
could have a lower key is open any more. A cursor says the time of an event and which it is of those of that time, as
pages of events do: a key would tell how much happens outside of the scopes of a token.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, Select, false, func, literal, not_, or_, select, text
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.database.events import ANY, EventFilter, EventPosition
from registry.catalogue.database.tables import STRETCH, EventRecord, in_stretch, table_of
from registry.catalogue.database.transactions import finds
from registry.catalogue.database.visibility import rights_of
from registry.errors import UnavailableError

_EVENTS: Final = table_of(EventRecord)
_LONGEST: Final = 10.0  # seconds that a beginning waits for a transaction that is open
_SOON: Final = 0.02

# Whoever inserts holds this lock from before the key is taken until the rows can be seen.
_WRITERS: Final = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted "
    "AND relation = 'events'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class Settled:
    """Up to which key the events are settled. Thread-safe; one serves all that follow in a process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._key = 0
        self._later: tuple[int, frozenset[str]] | None = None  # a key, and the transactions that it waits for

    @property
    def key(self) -> int:
        """The key, as of the last look."""
        return self._key

    @property
    def waits(self) -> bool:
        """Whether there are events that can be seen and are not settled: a look may soon find that they are."""
        return self._later is not None

    def look(self) -> int:
        """Look at the database; returns the key, up to which a transaction that begins from now on sees all events."""
        with self._lock:
            with self._database.read() as session:
                newest = _newest(session)
                if newest > self._key or self.waits:
                    self._move(newest, _writers(session))  # after the newest: whoever has a lower key is among them
            return self._key

    def _move(self, newest: int, writers: frozenset[str]) -> None:
        if self._later is not None:
            key, left = self._later[0], self._later[1] & writers
            if left:
                self._later = key, left
                return
            self._key, self._later = max(self._key, key), None
        if newest > self._key:
            if writers:
                self._later = newest, writers
            else:
                self._key = newest

    def now(self) -> int:
        """The key once all that can be seen by now is settled.

        Raises:
            UnavailableError: ``busy``: a transaction is open for longer than seconds.
        """
        with self._database.read() as session:
            newest = _newest(session)
        over = time.monotonic() + _LONGEST
        while self.look() < newest:
            if time.monotonic() > over:
                raise UnavailableError(
                    "Events can't be followed now: a transaction that writes some has been open for more than "
                    f"{_LONGEST:g} seconds. Try again in a moment.",
                    code="busy",
                )
            time.sleep(_SOON)
        return self._key


def _newest(session: Session) -> int:
    return session.scalar(select(func.max(_EVENTS.c.id))) or 0


def _writers(session: Session) -> frozenset[str]:
    """The transactions that may have written events and are open; of SQLite none, since it has one writer at a time."""
    if session.get_bind().dialect.name == "sqlite":
        return frozenset()
    return frozenset(session.scalars(_WRITERS))


def before(session: Session, settled: int, last: int, conditions: EventFilter) -> int:
    """The key after which the newest ``last`` of the settled events come that meet the conditions."""
    rows = events.newest_below(session, conditions, settled + 1, last) if last else ()
    return rows[-1].id - 1 if len(rows) else settled


def position_at(session: Session, key: int) -> EventPosition | None:
    """The position of the newest event up to a key that the rights see; None: they see none."""
    rows = events.newest_below(session, ANY, key + 1, 1)
    return positions(session, rows)[0] if rows else None


def after(
    session: Session, key: int, settled: int, conditions: EventFilter, limit: int
) -> tuple[Sequence[EventRecord], int]:
    """Settled events after a key, oldest first, ``limit`` at most; and the key after which the next ones come."""
    if settled <= key:
        return (), key
    subjects = None if settled - key <= STRETCH else events.subjects_meant(rights_of(session), conditions)
    rows: Sequence[EventRecord] = ()
    if subjects is None:
        rows = _walked_up(session, key, settled, conditions, limit)
    else:
        last = settled // STRETCH
        stretch = session.scalars(_next_with_one_of(subjects, (key + 1) // STRETCH, last)).one()
        while stretch <= last and len(rows) < limit:
            end = min(settled, (stretch + 1) * STRETCH - 1)
            found = _walked_up(session, max(key, stretch * STRETCH - 1), end, conditions, limit - len(rows))
            rows = [*rows, *found]
            stretch = session.scalars(_next_with_one_of(subjects, stretch + 1, last)).one()
    return rows, rows[-1].id if len(rows) == limit else settled


def _walked_up(session: Session, key: int, last: int, conditions: EventFilter, limit: int) -> Sequence[EventRecord]:
    """Those after a key and up to another, by walking up the keys: each is looked up as what the rights see."""
    walked = aliased(EventRecord)
    seen = select(EventRecord.id).where(EventRecord.id == walked.id, *conditions.conditions()).correlate(walked)
    query = select(walked).where(*conditions.in_order(walked), walked.id > key, walked.id <= last, finds(seen))
    return session.scalars(query.order_by(walked.id).limit(limit)).all()


def _next_with_one_of(subjects: Sequence[ColumnElement[bool]], stretch: int, last: int) -> Select[int]:
    """The first stretch, of a number or above, in which is an event with one of these subjects; none: above ``last``.

    As `registry.catalogue.database.events` looks for the one before.
    """
    stretches = select(literal(stretch, BigInteger).label("number")).cte("stretches", recursive=True)
    number = stretches.c.number
    probes = (select(_EVENTS.c.id).where(in_stretch(_EVENTS.c.id) == number, one) for one in subjects)
    there = (finds(probe.correlate(stretches)) for probe in probes)
    stretches = stretches.union_all(select(number + 1).where(number <= last, not_(or_(false(), *there))))
    return select(func.max(stretches.c.number))


def positions(session: Session, rows: Sequence[EventRecord]) -> list[EventPosition]:
    """The position of each of some events that the rights see."""
    keys: defaultdict[datetime, list[int]] = defaultdict(list)
    times = {row.at for row in rows}
    for at, key in session.execute(
        select(EventRecord.at, EventRecord.id).where(EventRecord.at.in_(times)).order_by(EventRecord.id)
    ):
        keys[at].append(key)
    return [EventPosition(row.at, keys[row.at].index(row.id) + 1) for row in rows]
