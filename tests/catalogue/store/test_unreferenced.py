"""Blobs: where they lie, who needs them, what is collected beside publishers, what a lost one takes down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from registry.catalogue.changes import deletion
from registry.catalogue.changes import publish as publishing
from registry.catalogue.database.database import Database
from registry.catalogue.store import blobs, purge, unreferenced
from registry.catalogue.tree import revisions
from registry.digest import BlobRef
from registry.errors import IntegrityError, UnavailableError
from registry.reference import Reference
from tests.catalogue.rows import ON_POSTGRESQL, TESTER, Writer, blob, digest_of

LATER = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC)


def age(database: Database, *digests: str) -> None:
    """Let blobs be unused for a day."""
    with database.write() as session:
        session.execute(text("UPDATE blobs SET used_at = '2026-01-02 03:04:05.000000'"))
        if digests:
            blobs.use(session, digests)


@pytest.fixture
def orphaned(filled: Database) -> Database:
    """With three blobs that nothing refers to, all of them old."""
    filled.change(lambda session: blobs.record(session, [blob("o1"), blob("o2"), blob("o3")]))
    age(filled)
    return filled


def test_the_key_that_stands_is_answered(database: Database) -> None:
    first, second = blob("x"), blob("x", "-again")
    assert database.change(lambda session: blobs.record(session, [first])) == {first.digest: first}
    assert database.change(lambda session: blobs.record(session, [second, blob("y")])) == {
        first.digest: first,
        digest_of("y"): blob("y"),
    }
    with database.read() as session:
        assert blobs.get(session, first.digest) == first
        assert blobs.rows(session, [first.digest, digest_of("none")]) == {first.digest: first}
    mended = database.change(lambda session: blobs.record(session, [second], mended={second.digest}))
    assert mended == {second.digest: second}
    with database.read() as session:
        assert blobs.get(session, first.digest) == second
        assert purge.named(session, [first.key, second.key]) == {second.key}
    with pytest.raises(IntegrityError, match="is recorded with"):
        database.change(lambda session: blobs.record(session, [BlobRef(first.digest, 9, "b", "k")], mended=()))


def test_only_what_nothing_needs_is_unneeded(orphaned: Database) -> None:
    orphans = sorted([blob("o1"), blob("o2"), blob("o3")], key=lambda row: row.digest)
    with orphaned.read() as session:
        assert list(unreferenced.unneeded(session, now())) == orphans
        second = orphans[1].digest
        assert list(unreferenced.unneeded(session, now(), end=second)) == orphans[:2]
        assert list(unreferenced.unneeded(session, now(), after=orphans[0].digest)) == orphans[1:]
        assert list(unreferenced.unneeded(session, now(), after=orphans[0].digest, end=second)) == [orphans[1]]
        after, seen = "", 0
        while (end := unreferenced.end_of(session, after, 2)) is not None:
            seen += unreferenced.count_in_grace(session, datetime(2026, 1, 1, tzinfo=UTC), after=after, end=end)
            after = end
        seen += unreferenced.count_in_grace(session, datetime(2026, 1, 1, tzinfo=UTC), after=after)
        assert seen == 3
        assert unreferenced.unneeded(session, datetime(2026, 1, 1, tzinfo=UTC)) == ()
        assert unreferenced.count_in_grace(session, datetime(2026, 1, 1, tzinfo=UTC)) == 3
        assert unreferenced.count_in_grace(session, now()) == 0


def test_what_a_deleted_revision_had_is_unneeded_unless_another_has_it(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        writer.publish(session, "llama/other", "s2", message="the same bytes")
        for reference in ("llama/code", "llama/support@2"):
            deletion.delete(session, revisions.find(session, Reference.parse(reference)).id, TESTER)
    age(filled)
    with filled.read() as session:
        assert unreferenced.unneeded(session, now()) == ()  # an undo needs it
    with filled.write() as session:
        assert len(purge.purge(session, purge.expired(session, now(), 9), purge.GRACE_OVER, TESTER)) == 2
    with filled.read() as session:
        assert unreferenced.unneeded(session, now()) == (blob("c1"),)


def test_using_a_blob_begins_its_grace_anew(orphaned: Database) -> None:
    before = now() - LATER
    used = orphaned.change(lambda session: blobs.use(session, [digest_of("o1"), digest_of("none")]))
    assert used == {digest_of("o1"): blob("o1")}
    orphaned.change(lambda session: blobs.record(session, [blob("o2")]))
    with orphaned.read() as session:
        assert unreferenced.unneeded(session, before) == (blob("o3"),)
        assert unreferenced.count_in_grace(session, before) == 2


def test_forgetting_leaves_what_is_needed_or_used_by_now(orphaned: Database, writer: Writer) -> None:
    before = now() - LATER
    with orphaned.read() as session:
        found = [row.digest for row in unreferenced.unneeded(session, before)]
    with orphaned.write() as session:
        publishing.publish(session, writer.new("llama/new", "o1", None), TESTER)
        blobs.use(session, [digest_of("o2")])
    gone = orphaned.change(lambda session: unreferenced.forget(session, [*found, digest_of("s1")], before))
    assert gone == (blob("o3"),)
    with orphaned.read() as session:
        assert blobs.rows(session, found).keys() == {digest_of("o1"), digest_of("o2")}
    assert orphaned.change(lambda session: unreferenced.forget(session, found, before)) == ()
    with pytest.raises(UnavailableError, match=f"The bytes {digest_of('o3')} of llama/new are no longer stored"):
        orphaned.change(lambda session: publishing.publish(session, writer.new("llama/new", "o3", None), TESTER))


@ON_POSTGRESQL
def test_a_collector_beside_a_publisher_that_has_not_committed(orphaned: Database, writer: Writer) -> None:
    before = now() - LATER
    with orphaned.write() as session:
        publishing.publish(session, writer.new("llama/new", "o1", None), TESTER)
        gone = orphaned.change(lambda other: unreferenced.forget(other, [digest_of("o1"), digest_of("o2")], before))
    assert gone == (blob("o2"),)
    with orphaned.read() as session:
        assert blobs.rows(session, [digest_of("o1")])


@ON_POSTGRESQL
def test_a_publisher_beside_a_collector_that_has_not_committed(orphaned: Database, writer: Writer) -> None:
    """It waits for the collector, and is told that the bytes are gone: not that a constraint was violated."""
    problems: list[Exception] = []

    def publish() -> None:
        try:
            orphaned.change(lambda session: publishing.publish(session, writer.new("llama/new", "o1", None), TESTER))
        except UnavailableError as problem:
            problems.append(problem)

    with orphaned.write() as session:
        assert unreferenced.forget(session, [digest_of("o1")], now() - LATER) == (blob("o1"),)
        publisher = threading.Thread(target=publish)
        publisher.start()
        wait_until_someone_waits(orphaned)
    publisher.join()
    assert ["are no longer stored" in str(problem) for problem in problems] == [True]


def wait_until_someone_waits(database: Database) -> None:
    while True:
        with database.read() as session:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            if session.execute(text(query)).scalar_one():
                return


def test_all_blobs_by_key(orphaned: Database) -> None:
    def everything() -> Iterator[BlobRef]:
        after = ""
        with orphaned.read() as session:
            while page := unreferenced.keys(session, after=after, limit=4):
                yield from page
                after = page[-1].key

    rows = list(everything())
    with orphaned.read() as session:
        count, size = unreferenced.totals(session)
        assert purge.named(session, [row.key for row in rows] + ["blobs/else"]) == {row.key for row in rows}
    assert [row.key for row in rows] == sorted(row.key for row in rows)
    assert (len(rows), sum(row.size for row in rows)) == (count, size) == (count, size)
    assert count == 4 + 5 + 3


def test_what_a_lost_blob_takes_down(orphaned: Database, writer: Writer) -> None:
    with orphaned.write() as session:
        writer.publish(session, "llama/twin", "s1")
    with orphaned.read() as session:
        assert unreferenced.takes_down(session, digest_of("s1")) == (
            "llama/support@1",
            "llama/support/french@1",
            "llama/support/french/legal@1",
            "llama/twin@1",
        )
        assert unreferenced.takes_down(session, digest_of("l1")) == ("llama/support/french/legal@1",)
        for name in ("llama config.json", "llama index", "llama table"):
            assert unreferenced.takes_down(session, digest_of(name)) == ("llama",)
        assert unreferenced.takes_down(session, digest_of("o1")) == ()


def test_an_empty_catalogue_has_no_blobs(database: Database) -> None:
    with database.read() as session:
        assert unreferenced.totals(session) == (0, 0)
        assert unreferenced.keys(session) == ()
