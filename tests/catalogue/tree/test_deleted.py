"""What is known of deleted revisions: while they can be restored, and of their numbers ever after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, undeletion
from registry.catalogue.database.database import Database
from registry.catalogue.store import purge
from registry.catalogue.tree import browse as deleted_numbers
from registry.catalogue.tree import revisions
from registry.catalogue.tree.browse import deleted
from registry.errors import NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import UNLIMITED, Rights
from registry.schemas import DeletedRevision
from tests.catalogue.rows import BOB, TESTER, Writer, rights

DAY = timedelta(days=1)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
CODE = "llama/code"


@pytest.fixture
def gone(filled: Database, writer: Writer) -> Database:
    """llama/code@1..5, of which 2, 4 and 5 were deleted, and 5 restored; llama/code-2@1, deleted, is its neighbour."""
    with filled.write() as session:
        for number in range(2, 6):
            writer.publish(session, CODE, f"c{number}", message=f"number {number}")
        writer.publish(session, "llama/code-2", "d1")
        for reference in ("llama/code@2", "llama/code@4", "llama/code@5", "llama/code-2@1"):
            deletion.delete(session, key(session, reference), BOB)
        undeletion.undo(session, Reference.parse("llama/code@5"), LONG_AGO, TESTER)
    return filled


def key(session: Session, reference: str) -> int:
    return revisions.find(session, Reference.parse(reference)).id


def listed(
    database: Database, path: str = CODE, *, grace: timedelta = DAY, seen: Rights = UNLIMITED
) -> tuple[DeletedRevision, ...]:
    with database.read(seen) as session:
        return deleted(session, TreePath.parse(path), datetime.now(UTC), grace)


def test_what_can_be_restored_says_until_when(gone: Database) -> None:
    found = listed(gone)
    assert [(one.reference, one.number, one.message, one.deleted_by) for one in found] == [
        ("llama/code@4", 4, "number 4", "bob"),
        ("llama/code@2", 2, "number 2", "bob"),
    ]
    for one in found:
        assert one.deleted_at is not None
        assert one.until is not None
        assert abs(one.until - one.deleted_at - DAY) < timedelta(minutes=1)
    assert [one.until for one in listed(gone, grace=timedelta(0))] == [None, None]


def test_a_number_whose_row_is_gone_is_still_taken(gone: Database) -> None:
    with gone.write() as session:
        purge.purge(session, purge.expired(session, datetime.now(UTC), 99), purge.GRACE_OVER, TESTER)
    assert [(one.number, one.deleted_by, one.until) for one in listed(gone)] == [(4, "bob", None), (2, "bob", None)]


def test_the_last_deletion_counts(gone: Database) -> None:
    with gone.write() as session:
        deletion.delete(session, key(session, "llama/code@5"), TESTER)
    assert next((one.number, one.deleted_by) for one in listed(gone)) == (5, "tester")


def test_pages_of_what_was_deleted_are_the_whole(gone: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deleted_numbers, "_AT_ONCE", 2)  # numbers that are looked at together
    assert [one.number for one in listed(gone)] == [4, 2]
    with gone.read() as session:
        path, now = TreePath.parse(CODE), datetime.now(UTC)
        pages = [deleted(session, path, now, DAY, before=before, limit=1) for before in (None, 4, 2)]
    assert [[one.number for one in page] for page in pages] == [[4], [2], []]


def test_between_two_numbers(gone: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deleted_numbers, "_AT_ONCE", 2)
    with gone.read() as session:
        path, now = TreePath.parse(CODE), datetime.now(UTC)
        between = [(0, None), (2, None), (1, 4), (2, 4), (4, None)]
        pages = [deleted(session, path, now, DAY, above=above, before=before) for above, before in between]
    assert [[one.number for one in page] for page in pages] == [[4, 2], [4], [2], [], []]


def test_an_adapter_of_which_nothing_is_left(gone: Database) -> None:
    assert [one.reference for one in listed(gone, "llama/code-2")] == ["llama/code-2@1"]
    assert listed(gone, "llama/support") == ()
    for path, wrong in (("llama/none", NotFoundError), ("none/x", NotFoundError), ("llama", UsageError)):
        with pytest.raises(wrong):
            listed(gone, path)


def test_numbers_outside_the_scopes_are_not_there(gone: Database) -> None:
    inside = rights("reader", "llama/code")
    assert [one.number for one in listed(gone, seen=inside)] == [4, 2]
    for path in ("llama/code-2", "llama/nothing"):
        with pytest.raises(NotFoundError):
            listed(gone, path, seen=inside)
