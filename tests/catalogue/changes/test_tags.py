"""Tags that move only from where they are expected, and that go back to where they were."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, retraction, tagging, undeletion
from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import EventRecord, Revision, Tag
from registry.catalogue.tree import revisions, tag_moves
from registry.errors import ConflictError, NotAllowedError, NotFoundError, RegistryError, RetractedError, UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import Principal
from registry.schemas import Tagged
from tests.catalogue.rows import TESTER, Writer, rights

SUPPORT = TreePath.parse("llama/support")
WRITER = Principal("writer", rights("writer", "llama/support"))
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def key(session: Session, reference: str) -> int:
    return revisions.find(session, Reference.parse(reference)).id


def set_to(database: Database, number: int, *, tag: str = "prod", expected: str | None = None) -> Tagged:
    return database.change(lambda s: tagging.set_tag(s, key(s, f"{SUPPORT}@{number}"), tag, TESTER, expected=expected))


def undo(database: Database, *, expected: str | None = None, principal: Principal = TESTER) -> Tagged:
    return database.change(lambda s: tagging.undo(s, SUPPORT, "prod", principal, expected=expected))


def named(database: Database, tag: str = "prod") -> int | None:
    with database.read() as session:
        try:
            return revisions.find(session, Reference(SUPPORT, tag=tag)).number
        except NotFoundError:
            return None


@pytest.mark.parametrize("expected", ["@1", "1", "llama/support@1"])
def test_a_tag_moves_from_where_it_is_expected(filled: Database, expected: str) -> None:
    moved = set_to(filled, 2, expected=expected)
    assert (moved.reference, moved.previous) == ("llama/support@2", "llama/support@1")
    with pytest.raises(ConflictError, match="llama/support@prod points at llama/support@2 and not at") as refused:
        set_to(filled, 1, expected=expected)
    assert refused.value.code == "tag_moved"
    assert named(filled) == 2


def test_a_tag_is_new_where_none_is_expected(filled: Database) -> None:
    with pytest.raises(ConflictError, match="exists already, and points at llama/support@1"):
        set_to(filled, 2, expected="none")
    assert set_to(filled, 2, tag="next", expected="none").previous is None
    with pytest.raises(ConflictError, match="llama/support has no tag other, which was expected to point at"):
        set_to(filled, 2, tag="other", expected="@1")
    assert named(filled, "other") is None


@pytest.mark.long_on("postgresql")
@pytest.mark.parametrize("expected", ["", "@", "prod", "@prod", "@0", "llama/code@1", "None", "@1 ", "\x00"])
def test_what_is_expected_is_a_number_of_the_adapter(filled: Database, expected: str) -> None:
    with pytest.raises(UsageError, match="give a number such as @3, or none"):
        set_to(filled, 2, expected=expected)


def test_refused_moves_leave_no_event(filled: Database) -> None:
    with filled.read() as session:
        before = events.recent(session, 100)
    with pytest.raises(ConflictError):
        set_to(filled, 2, expected="@2")
    with pytest.raises(ConflictError):
        undo(filled, expected="@2")
    with filled.read() as session:
        assert events.recent(session, 100) == before


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """What each of several calls that begin together gives, or raises."""
    barrier = Barrier(count)

    def one(number: int) -> object:
        barrier.wait(60)
        try:
            return work(number)
        except RegistryError as error:
            return error.code

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.mark.parametrize("expected", ["@1", "none"])
def test_only_one_of_many_moves_it(filled: Database, writer: Writer, expected: str) -> None:
    tag = "prod" if expected == "@1" else "fresh"
    with filled.write() as session:
        numbers = [writer.publish(session, "llama/support", f"more {count}").number for count in range(6)]
    done = at_once(len(numbers), lambda at: set_to(filled, numbers[at], tag=tag, expected=expected).reference)
    won = [one for one in done if one != "tag_moved"]
    assert won == [f"llama/support@{named(filled, tag)}"]
    with filled.read() as session:
        moved = [one for one in events.recent(session, 100) if one.action == "tag" and one.detail["tag"] == tag]
    start = None if tag == "fresh" else "llama/support@1"
    assert [one.detail["new"] for one in moved if one.detail["old"] == start] == won


def test_an_undo_undoes_the_last_change_and_the_undo(filled: Database) -> None:
    set_to(filled, 2)
    assert undo(filled) == Tagged(
        path="llama/support", tag="prod", reference="llama/support@1", previous="llama/support@2"
    )
    assert undo(filled).reference == "llama/support@2"
    filled.change(lambda s: tagging.remove_tag(s, SUPPORT, "prod", TESTER))
    back = undo(filled)
    assert (back.reference, back.previous, named(filled)) == ("llama/support@2", None, 2)


def test_an_undo_removes_a_tag_that_was_new(filled: Database) -> None:
    assert undo(filled).reference is None
    assert named(filled) is None
    assert undo(filled).reference == "llama/support@1"


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(st.sampled_from(["1", "2", "remove", "undo"]), max_size=8))
def test_an_undo_is_what_a_list_of_states_says(filled: Database, steps: list[str]) -> None:
    """Each change is a state more; an undo goes to the state before the last change, as a change of its own."""
    tag = "t"
    with filled.write() as session:
        adapter = revisions.adapter(session, SUPPORT)
        states: list[int | None] = [None]

        def now() -> int | None:
            query = select(Revision.number).join(Tag, Tag.revision_id == Revision.id)
            return session.scalar(query.where(Tag.adapter_id == adapter, Tag.name == tag))

        for step in steps:
            before = now()
            assert before == states[-1]
            if step == "undo" and len(states) > 1:
                tagging.undo(session, SUPPORT, tag, TESTER)
                states.append(states[-2])
            elif step == "remove" and before is not None:
                tagging.remove_tag(session, SUPPORT, tag, TESTER)
                states.append(None)
            elif step in {"1", "2"}:
                tagging.set_tag(session, key(session, f"{SUPPORT}@{step}"), tag, TESTER)
                states += [int(step)] if before != int(step) else []
        assert now() == states[-1]
        session.rollback()


def test_an_undo_does_not_go_to_what_is_deleted(filled: Database) -> None:
    set_to(filled, 2)
    filled.change(lambda s: deletion.delete(s, key(s, "llama/code@1"), TESTER))
    with filled.write() as session:  # nothing was trained on @2
        tagging.set_tag(session, key(session, "llama/support@1"), "prod", TESTER)
        deletion.delete(session, key(session, "llama/support@2"), TESTER)
    with pytest.raises(NotFoundError, match="`registry delete llama/support@2 --undo`"):
        undo(filled)
    assert named(filled) == 1
    filled.change(lambda s: undeletion.undo(s, Reference.parse("llama/support@2"), LONG_AGO, TESTER))
    assert undo(filled).reference == "llama/support@2"


def test_a_tag_that_was_deleted_with_its_revision(filled: Database) -> None:
    set_to(filled, 2)
    filled.change(lambda s: deletion.delete(s, key(s, "llama/support@2"), TESTER, with_tags=True))
    with pytest.raises(NotFoundError, match="llama/support@prod pointed at llama/support@2 before, which is deleted"):
        undo(filled)
    filled.change(lambda s: undeletion.undo(s, Reference.parse("llama/support@2"), LONG_AGO, TESTER))
    assert named(filled) == 2
    assert undo(filled).reference is None  # its last change was that it came back with the revision


def test_an_undo_does_not_guess_what_no_event_tells(filled: Database) -> None:
    """A program of an early version deleted a revision and did not note which tags went with it."""
    set_to(filled, 2)
    filled.change(lambda s: deletion.delete(s, key(s, "llama/support@2"), TESTER, with_tags=True))
    with filled.write() as session:
        (gone,) = session.scalars(select(EventRecord).where(EventRecord.action == "delete"))
        gone.detail = {name: value for name, value in gone.detail.items() if name != "tags"}
    with pytest.raises(NotFoundError, match="It is not known what llama/support@prod pointed at before"):
        undo(filled)
    with filled.read() as session:
        assert session.scalar(select(Tag.revision_id).where(Tag.name == "prod")) is None


def test_an_undo_does_not_go_to_what_is_retracted(filled: Database) -> None:
    set_to(filled, 2)
    filled.change(lambda s: retraction.retract(s, key(s, "llama/support@1"), "bad data", TESTER))
    with pytest.raises(RetractedError, match=r"pointed at llama/support@1 before, which is not available: .*bad data"):
        undo(filled)
    assert named(filled) == 2


def test_an_undo_needs_the_rights_of_a_move(filled: Database) -> None:
    set_to(filled, 2)
    filled.change(lambda s: tagging.protect(s, "llama", "prod", TESTER))
    with pytest.raises(NotAllowedError) as refused:
        undo(filled, principal=WRITER)
    assert refused.value.code == "protected_tag"
    assert undo(filled).reference == "llama/support@1"


def test_an_undo_only_from_where_it_is_expected(filled: Database) -> None:
    set_to(filled, 2)
    with pytest.raises(ConflictError):
        undo(filled, expected="@1")
    assert undo(filled, expected="@2").reference == "llama/support@1"


def test_a_tag_without_a_history(filled: Database) -> None:
    with pytest.raises(NotFoundError, match="llama/support has no tag prd"):
        filled.change(lambda s: tagging.undo(s, SUPPORT, "prd", TESTER))


def test_a_tag_is_removed_from_where_it_is_expected(filled: Database) -> None:
    for wrong in ("@2", "none"):
        with pytest.raises(ConflictError) as refused:
            filled.change(partial(tagging.remove_tag, path=SUPPORT, tag="prod", principal=TESTER, expected=wrong))
        assert refused.value.code == "tag_moved"
    assert named(filled) == 1
    gone = filled.change(lambda s: tagging.remove_tag(s, SUPPORT, "prod", TESTER, expected="@1"))
    assert (gone.reference, gone.previous, named(filled)) == (None, "llama/support@1", None)


def test_the_tags_of_an_adapter(filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for tag, number in (("alpha", 1), ("alpha", 2), ("beta", 1), ("gone", 2)):
        set_to(filled, number, tag=tag)
    for tag in ("gone", "beta"):
        filled.change(partial(tagging.remove_tag, path=SUPPORT, tag=tag, principal=TESTER))
    set_to(filled, 2, tag="beta")

    def listed() -> list[tuple[str, str | None, list[str | None]]]:
        with filled.read() as session:
            found = tag_moves.of_adapter(session, SUPPORT)
        return [(one.tag, one.points_at, [move.old for move in one.moves]) for one in found]

    one, two = "llama/support@1", "llama/support@2"
    alpha, beta, gone = ("alpha", two, [one, None]), ("beta", two, [None, one, None]), ("gone", None, [two, None])
    assert [row for row in listed() if row[0] != "prod"] == [alpha, beta, gone]
    monkeypatch.setattr(tag_moves, "OF_ADAPTER", 1)  # beta and prod are there, and not listed: they are not gone
    assert listed() == [alpha, gone]
    with filled.read() as session:
        assert tag_moves.of_adapter(session, TreePath.parse("llama/nothing")) == ()
