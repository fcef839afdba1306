"""Events by what they are about, who did them, their kind and their time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Final

import pytest
from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, retraction, tagging
from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.database.events import EventFilter, EventPosition
from registry.catalogue.database.tables import EventRecord
from registry.catalogue.team import tokens
from registry.catalogue.tree import revisions
from registry.errors import NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import UNLIMITED, Rights
from registry.schemas import Event
from registry.schemas.team import EVENT_KINDS
from tests.catalogue.rows import BOB, TESTER, Writer, rights
from tests.kit.statements import statements

BEGIN: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def eventful(filled: Database, writer: Writer) -> Database:
    """Events of neighbours in every order, of several actors, one a minute from `BEGIN` on, the oldest first."""
    with filled.write() as session:
        for number, path in enumerate(("llama/support-2", "llama/support0", "llama/supportive", "llama/support-a")):
            writer.publish(session, path, f"n{number}", tag="prod", principal=BOB if number % 2 else TESTER)
        key = revisions.find(session, Reference.parse("llama/support@2")).id
        tagging.set_tag(session, key, "prod", BOB)
        retraction.retract(session, key, "bad", BOB)
        deletion.delete_tree(session, TreePath.parse("llama/support-2"), BOB, with_tags=True)
        tokens.create(session, TESTER, "reader")
        events.record_denial(session, "delete", "llama/support@1", BOB, NotFoundError("no"))
        events.record(session, "gc", "registry", TESTER, {})
        for key in session.scalars(EventRecord.__table__.select().with_only_columns(EventRecord.id)).all():
            moment = BEGIN + timedelta(minutes=key)
            session.execute(update(EventRecord).where(EventRecord.id == key).values(at=moment))
    return filled


def is_about(event: Event, path: str) -> bool:
    """Segment by segment, without the number."""
    if event.action in {"gc", "token create", "token revoke"}:
        return False
    whole, wanted = event.subject.partition("@")[0].split("/"), path.split("/")
    return whole[: len(wanted)] == wanted


PATHS: Final = ("llama", "llama/support", "llama/support-2", "llama/support/french", "llama/none", "registry", "tok_x")
SEEN: Final = {"all": UNLIMITED, "writer": rights("writer"), "scoped": rights("admin", "llama/support")}


def by_hand(
    session: Session, path: str | None, after: datetime | None, actor: str | None, kind: str | None
) -> list[Event]:
    return [
        event
        for event in events.recent(session, 1000)
        if (path is None or is_about(event, path))
        and (after is None or event.at >= after)
        and (actor is None or event.actor == actor)
        and (kind is None or event.action == kind)
    ]


WAYS: Final = (0, 3, events.FEW)  # walked, some of both, collected


@pytest.mark.long_on("writer", "scoped")
@pytest.mark.slow_on("all")
@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_conditions_are_met_together(
    eventful: Database, seen: Rights, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each set of conditions in one way, another in each turn."""
    times = (None, BEGIN + timedelta(minutes=12), BEGIN + timedelta(days=1))
    conditions_of = product((None, *PATHS), times, (None, "bob"), (None, "publish", "refused"))
    found = 0
    with eventful.read(seen) as session:
        for place, (path, after, actor, kind) in enumerate(conditions_of):
            monkeypatch.setattr(events, "FEW", WAYS[(place + place // len(WAYS) + turn) % len(WAYS)])
            wanted = by_hand(session, path, after, actor, kind)
            conditions = EventFilter(None if path is None else TreePath.parse(path), after, actor, kind)
            assert list(events.recent(session, 1000, conditions)) == wanted, conditions
            assert paged(session, conditions, 2) == wanted, conditions
            found += bool(wanted)
    assert found > 10


def paged(session: Session, conditions: EventFilter, size: int) -> list[Event]:
    page = events.page(session, size, None, conditions)
    found = list(page.events)
    while page.next is not None:
        page = events.page(session, size, page.next, conditions)
        assert 0 < len(page.events) <= size
        found += page.events
    return found


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_new_events_do_not_shift_pages(eventful: Database, writer: Writer, seen: Rights) -> None:
    conditions = EventFilter(TreePath.parse("llama/support"), BEGIN + timedelta(minutes=2))
    with eventful.read(seen) as session:
        before = events.recent(session, 1000, conditions)
        first = events.page(session, 3, None, conditions)
    with eventful.write() as session:
        writer.publish(session, "llama/support", "s9", tag="next")
        writer.publish(session, "llama/code", "c9", tag="next")
    with eventful.read(seen) as session:
        rest = events.page(session, 1000, first.next, conditions)
    assert (*first.events, *rest.events) == before


def test_events_of_one_time_are_on_several_pages(database: Database) -> None:
    with database.write() as session:
        row = {"action": "tag", "actor": "bob", "detail": {}, "at": BEGIN}
        subjects = [f"llama/{name}" for name in ("a", "b", "support", "c", "support/french", "support@1", "d")]
        session.execute(insert(EventRecord), [{**row, "subject": subject} for subject in subjects])
    for seen in SEEN.values():
        with database.read(seen) as session:
            every = events.recent(session, 100)
            assert paged(session, events.ANY, 1) == paged(session, events.ANY, 2) == list(every)
            assert len({one.subject for one in every}) == len(every)


def test_stretches_without_an_event_are_passed_over(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: one statement finds the next that has some, and one these."""
    monkeypatch.setattr(events, "FEW", 0)
    outside = ("llama/suppor", "llama/support-a", "llama/supporu", "llama/code@7", "qwen")
    inside = ("llama/support", "llama/support@1", "llama/support/french", "llama/support/french@2", "llama")
    subjects = [*inside, *outside, *outside * 10, *inside, *outside * 10]
    rows = [
        {"action": "tag", "actor": "bob", "detail": {}, "id": place * 3000, "at": BEGIN + timedelta(hours=place)}
        for place in range(1, len(subjects) + 1)
    ]
    with database.write() as session:
        for row, subject in zip(rows, subjects, strict=True):
            row["subject"] = subject
        session.execute(insert(EventRecord), rows)
    for path, seen in product((None, *PATHS), SEEN.values()):
        with database.read(seen) as session:
            above = [path, *seen.scopes]
            wanted = [
                one
                for one in reversed(rows)
                if all(about_path(str(one["subject"]), str(each)) for each in above if each is not None)
                or (one["subject"] == "llama" and path in {None, "llama"})
            ]
            found = paged(session, EventFilter(None if path is None else TreePath.parse(path)), 2)
            assert [(one.at, one.subject) for one in found] == [(one["at"], one["subject"]) for one in wanted]
    with database.read(SEEN["scoped"]) as session, statements("WITH", "SELECT events.id") as sent:
        assert len(events.recent(session, 1)) == 1
    assert len(sent) == 2


def about_path(subject: str, path: str) -> bool:
    return subject == path or subject.startswith((f"{path}/", f"{path}@"))


def test_a_position_of_what_is_not_seen_is_refused(eventful: Database) -> None:
    with eventful.read(SEEN["scoped"]) as session, pytest.raises(UsageError, match="start from the beginning"):
        events.page(session, 3, EventPosition(BEGIN - timedelta(days=1), 1))


@pytest.mark.long_on("postgresql")
@pytest.mark.parametrize("kind", ["published", "Tag", "", "\x00"])
def test_an_unknown_kind_is_refused_with_those_there_are(eventful: Database, kind: str) -> None:
    with eventful.read() as session, pytest.raises(UsageError, match="There is no kind of event") as refused:
        events.recent(session, 1, EventFilter(kind=kind))
    assert all(known in str(refused.value) for known in EVENT_KINDS)
    assert ("Did you mean 'publish'?" in str(refused.value)) == (kind == "published")


def test_a_name_that_can_not_be_kept_is_refused(eventful: Database) -> None:
    with eventful.read() as session, pytest.raises(UsageError, match="The name of the actor"):
        events.recent(session, 1, EventFilter(actor="\x00"))


def test_every_kind_is_found(eventful: Database) -> None:
    look: Callable[[Session, str], int] = lambda s, kind: len(events.recent(s, 100, EventFilter(kind=kind)))  # noqa: E731
    with eventful.read() as session:
        counts = {kind: look(session, kind) for kind in EVENT_KINDS}
        every = [one.action for one in events.recent(session, 1000)]
    assert counts == {kind: every.count(kind) for kind in EVENT_KINDS}
    assert sum(counts.values()) == len(every)
