"""Events are followed in the order of their keys, each once, also where transactions end in another order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from sqlalchemy import delete, insert, select, text
from sqlalchemy.orm import Session

from registry.catalogue.database import events, following
from registry.catalogue.database.database import Database
from registry.catalogue.database.events import EventFilter, EventPosition
from registry.catalogue.database.following import Settled
from registry.catalogue.database.tables import STRETCH, BaseModelRecord, EventRecord
from registry.errors import UnavailableError
from registry.reference import Path as TreePath
from registry.rights import UNLIMITED, Rights
from tests.catalogue.rows import BOB, ON_POSTGRESQL, TESTER, rights

BEGIN: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SCOPED: Final = rights("reader", "llama/support")
CONDITIONS: Final = (
    EventFilter(),
    EventFilter(TreePath.parse("llama/support")),
    EventFilter(TreePath.parse("llama/code")),
    EventFilter(kind="tag", actor="bob"),
    EventFilter(TreePath.parse("llama"), after=BEGIN + timedelta(seconds=3), actor="ann"),
)


def walked(session: Session, settled: int, conditions: EventFilter, limit: int, key: int = 0) -> Iterator[EventRecord]:
    while key < settled:
        rows, after = following.after(session, key, settled, conditions, limit)
        assert len(rows) <= limit
        assert key < after <= settled
        yield from rows
        key = after


SEEN: Final = {"all": UNLIMITED, "reader": rights("reader"), "scoped": SCOPED, "elsewhere": rights("reader", "qwen")}


@pytest.mark.long_but("sqlite", "postgresql-scoped")
@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_what_comes_after_a_key_is_what_the_list_has_the_other_way_round(database: Database, seen: Rights) -> None:
    """In one stretch of keys, in neighbours, and far behind ones without an event."""
    keys = [1, 2, 3, STRETCH - 1, STRETCH, STRETCH + 1, 5 * STRETCH, 5 * STRETCH + 1, 9 * STRETCH - 1, 9 * STRETCH]
    subjects = ("llama", "llama/support@1", "llama/supporting", "llama/support/french", "llama/code@1", "qwen")
    drawn = random.Random(7)
    rows = [
        {
            "id": key,
            "at": BEGIN + timedelta(seconds=drawn.randrange(6)),  # of no order, and some of one time
            "action": drawn.choice(["tag", "publish", "gc"]),
            "subject": drawn.choice(subjects),
            "actor": drawn.choice(["ann", "bob"]),
            "detail": {},
        }
        for key in sorted({*keys, *(drawn.randrange(1, 9 * STRETCH) for _ in range(40))})
    ]
    with database.write() as session:
        session.execute(insert(EventRecord), rows)
    with database.read(seen) as session:
        for conditions in CONDITIONS:
            newest_first = events.newest_below(session, conditions, None, 1000)
            wanted = [row.id for row in reversed(newest_first)]
            for limit in (2, 1000):
                assert [row.id for row in walked(session, 9 * STRETCH, conditions, limit)] == wanted
            assert [row.id for row in walked(session, 5 * STRETCH, conditions, 2)] == [
                key for key in wanted if key <= 5 * STRETCH
            ]
            for last in (0, 3, 1000):
                key = following.before(session, 9 * STRETCH, last, conditions)
                found = [row.id for row in walked(session, 9 * STRETCH, conditions, 1000, key)]
                assert found == wanted[max(0, len(wanted) - last) :]
        every = events.newest_below(session, events.ANY, None, 1000)
        for row, position in zip(every, following.positions(session, every), strict=True):
            assert events.key_at(session, position) == row.id
            assert following.position_at(session, row.id) == position


def record(session: Session, subject: str) -> int:
    """The key of a new event."""
    events.record(session, "tag", subject, TESTER, {})
    return session.scalars(select(EventRecord.id).order_by(EventRecord.id.desc()).limit(1)).one()


def subjects(database: Database, settled: int) -> list[str]:
    with database.read() as session:
        return [row.subject for row in walked(session, settled, events.ANY, 10)]


@ON_POSTGRESQL
@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_an_event_waits_for_those_with_lower_keys(database: Database, ends: str) -> None:
    settled, fresh = Settled(database), Settled(database)
    with database.write() as session:
        first = record(session, "llama/0")
    assert settled.look() == first
    with ExitStack() as late:
        slow = late.enter_context(database.write())
        low = record(slow, "llama/low")
        with database.write() as session:
            high = record(session, "llama/high")
        assert low < high
        for _ in range(3):
            assert (settled.look(), settled.waits) == (first, True)
            assert (fresh.look(), fresh.waits) == (0, True)  # it began while both were there
        assert subjects(database, settled.key) == ["llama/0"]
        with database.write() as session:  # holds back no longer what waits for the other one alone
            highest = record(session, "llama/highest")
            if ends == "rollback":
                slow.rollback()
            else:
                slow.commit()
            assert (settled.look(), fresh.look()) == (high, high)
    assert (settled.look(), settled.waits, fresh.look()) == (highest, False, highest)
    told = ["llama/0", "llama/low", "llama/high", "llama/highest"]
    assert subjects(database, settled.key) == [one for one in told if ends == "commit" or one != "llama/low"]


@ON_POSTGRESQL
def test_nothing_waits_for_transactions_that_write_no_events(database: Database) -> None:
    settled = Settled(database)
    with database.write() as other, database.read() as reader:
        other.execute(text("SELECT pg_current_xact_id()"))
        other.execute(select(EventRecord).with_for_update())
        other.execute(delete(BaseModelRecord))
        reader.execute(select(EventRecord))
        with database.write() as session:
            key = record(session, "llama")
        assert settled.look() == key


@ON_POSTGRESQL
def test_a_beginning_waits_for_what_is_open_and_not_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as slow:
        record(slow, "llama/low")
        with database.write() as session:
            high = record(session, "llama/high")
        with monkeypatch.context() as patch:
            patch.setattr(following, "_LONGEST", 0.1)
            with pytest.raises(UnavailableError, match="a transaction that writes some has been open") as caught:
                Settled(database).now()
            assert caught.value.code == "busy"
        threading.Timer(0.1, slow.commit).start()
        assert Settled(database).now() == high


def test_many_writers_that_dawdle_before_they_commit(database: Database) -> None:
    """Keys come in any order of commits, and some never: a follower gives each that was committed once, in order."""
    committed: list[int] = []
    writers, each = 6, 12

    def write(seed: int) -> None:
        mine = random.Random(seed)
        for number in range(each):
            with database.write() as session:
                events.record(session, "tag", f"llama/{seed}-{number}", BOB, {})
                key = session.scalars(select(EventRecord.id).where(EventRecord.subject == f"llama/{seed}-{number}"))
                own = key.one()
                time.sleep(mine.random() * 0.01)
                if mine.random() < 0.2:
                    session.rollback()
                    continue
            committed.append(own)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(writers)]
    for thread in threads:
        thread.start()
    settled, key, found = Settled(database), 0, []
    while any(thread.is_alive() for thread in threads) or settled.look() > key or settled.waits:
        until = settled.look()
        with database.read() as session:
            rows, key = following.after(session, key, until, events.ANY, 5)
        found += [row.id for row in rows]
    assert found == sorted(committed)
    assert len(found) > writers * each / 2


def test_a_position_names_the_event_though_others_have_its_time(database: Database) -> None:
    with database.write() as session:
        row = {"action": "tag", "actor": "bob", "detail": {}, "at": BEGIN}
        paths = ("llama/a", "llama/support", "llama/b", "llama/support@1")
        session.execute(insert(EventRecord), [{**row, "subject": path} for path in paths])
    with database.read(SCOPED) as session:
        rows = events.newest_below(session, events.ANY, None, 10)
        assert following.positions(session, rows) == [EventPosition(BEGIN, 2), EventPosition(BEGIN, 1)]
