"""Uploads and operations: found again by who began them, taken up by another process when one is gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from registry.catalogue.database.database import Database
from registry.catalogue.database.team_tables import UploadRecord
from registry.catalogue.store import uploads
from registry.catalogue.store.uploads import UploadRow
from registry.catalogue.team import jobs
from registry.catalogue.team.jobs import JobRow
from registry.errors import NotFoundError
from registry.rights import Principal
from tests.catalogue.rows import BOB, ON_POSTGRESQL, TESTER, digest_of, rights

READER = Principal("ria", rights("reader", "llama/support"), token="tok_ria", source="192.0.2.9")
ADMIN_OF_A_PART = Principal("ada", rights("admin", "llama"), token="tok_ada")
OVER = timedelta(seconds=-1)
KINDS = ("publish",)


def upload(database: Database, principal: Principal = BOB, lifetime: timedelta = uploads.LIFETIME) -> UploadRow:
    return database.change(
        lambda session: uploads.create(
            session,
            digest_of("x"),
            40,
            principal,
            part_size=16,
            staging_key="staging/x",
            multipart="m1",
            lifetime=lifetime,
        )
    )


def test_an_upload_is_found_again_by_who_began_it(database: Database) -> None:
    made = upload(database)
    assert (len(made.id), made.owner, made.multipart) == (32, "tok_bob", "m1")
    same_token = Principal("bob elsewhere", rights("reader"), token="tok_bob")
    with database.read() as session:
        assert uploads.find(session, digest_of("x"), 40, same_token) == made
        assert uploads.get(session, made.id, same_token) == made
        assert uploads.find(session, digest_of("x"), 41, BOB) is None
        assert uploads.find(session, digest_of("y"), 40, BOB) is None
        for stranger in (TESTER, READER, Principal("bob", rights("admin"))):
            assert uploads.find(session, digest_of("x"), 40, stranger) is None
            with pytest.raises(NotFoundError, match=f"There is no upload {made.id}, or it has expired"):
                uploads.get(session, made.id, stranger)
        assert session.scalars(select(UploadRecord.staging_key)).all() == ["staging/x"]
    database.change(lambda session: uploads.remove(session, made.id))
    with database.read() as session, pytest.raises(NotFoundError):
        uploads.get(session, made.id, BOB)


def test_an_upload_whose_time_is_over(database: Database) -> None:
    old, new = upload(database, lifetime=OVER), upload(database, TESTER)
    now = datetime.now(UTC)
    with database.read() as session:
        assert uploads.find(session, digest_of("x"), 40, BOB) is None
        with pytest.raises(NotFoundError, match="it has expired: start it again"):
            uploads.get(session, old.id, BOB)
        assert uploads.expired(session, now) == (old,)
        assert uploads.expired(session, now + 2 * uploads.LIFETIME) == (old, new)
        assert uploads.expired(session, now + 2 * uploads.LIFETIME, limit=1) == (old,)
    database.change(lambda session: uploads.extend(session, old.id))
    database.change(lambda session: uploads.extend(session, new.id, timedelta(0)))  # never shortened
    with database.read() as session:
        assert uploads.get(session, old.id, BOB).expires_at > now
        assert uploads.get(session, new.id, TESTER) == new


def start(database: Database, request: str = "{}", principal: Principal = BOB) -> JobRow:
    return database.change(lambda session: jobs.create(session, "publish", request, principal))


def claim(database: Database, runner: str, lease: timedelta = jobs.LEASE) -> JobRow | None:
    return database.change(lambda session: jobs.claim(session, runner, KINDS, lease=lease))


def test_an_operation_from_beginning_to_end(database: Database) -> None:
    made = start(database, "{}", READER)
    assert (made.state, made.principal, made.owner, made.attempts) == ("pending", READER, "tok_ria", 0)
    claimed = claim(database, "one")
    assert claimed is not None
    assert (claimed.id, claimed.state, claimed.runner, claimed.attempts) == (made.id, "running", "one", 1)
    assert claim(database, "two") is None
    assert database.change(lambda session: jobs.renew(session, made.id, "one", stage="hash", done=5, total=9))
    with database.read() as session:
        now = jobs.get(session, made.id, READER)
        assert (now.stage, now.done, now.total, now.result) == ("hash", 5, 9, None)
        assert now.lease_until is not None
        assert now.updated_at >= now.created_at == made.created_at
        assert jobs.pending(session) == 1
    assert database.change(lambda session: jobs.finish(session, made.id, "one", '{"ok": 1}'))
    with database.read() as session:
        done = jobs.get(session, made.id, READER)
        assert (done.state, done.result, done.problem, done.lease_until) == ("done", '{"ok": 1}', None, None)
        assert jobs.pending(session) == 0
    assert claim(database, "two") is None


def test_who_may_see_an_operation(database: Database) -> None:
    made = start(database, "{}", READER)
    with database.read() as session:
        assert jobs.get(session, made.id, TESTER) == jobs.get(session, made.id, READER) == made
        for stranger in (ADMIN_OF_A_PART, Principal("ria", rights("writer"))):
            with pytest.raises(NotFoundError, match=f"There is no operation {made.id}"):
                jobs.get(session, made.id, stranger)
        with pytest.raises(NotFoundError):
            jobs.get(session, "none", TESTER)


def test_the_same_request_again_is_the_same_operation_until_it_ends(database: Database) -> None:
    made = start(database)
    assert start(database) == made
    assert start(database, '{"other": 1}').id != made.id
    assert start(database, "{}", TESTER).id != made.id
    database.change(lambda session: jobs.claim(session, "one", KINDS, operation_id=made.id))
    assert start(database).id == made.id
    database.change(lambda session: jobs.fail(session, made.id, "one", "{}"))
    assert start(database).id != made.id


def test_what_nobody_took_up_is_forgotten_like_what_ended(database: Database) -> None:
    """Work in a form that no replica knows any more is given back each time."""
    ended, held, left = (start(database, str(number)) for number in range(3))
    assert [row and row.id for row in (claim(database, "one"), claim(database, "one"))] == [ended.id, held.id]
    database.change(lambda session: jobs.fail(session, ended.id, "one", "{}"))
    database.change(lambda session: jobs.forget(session, datetime.now(UTC) - timedelta(minutes=1)))
    with database.read() as session:
        assert [jobs.get(session, one.id, BOB).state for one in (ended, held, left)] == [
            "failed",
            "running",
            "pending",
        ]
    database.change(lambda session: jobs.forget(session, datetime.now(UTC)))
    with database.read() as session:
        assert jobs.get(session, held.id, BOB).state == "running"
        for one in (ended, left):
            with pytest.raises(NotFoundError):
                jobs.get(session, one.id, BOB)


def test_another_process_goes_on_when_a_lease_ends(database: Database) -> None:
    made = start(database)
    claim(database, "gone", lease=OVER)
    again = claim(database, "here")
    assert again is not None
    assert (again.id, again.runner, again.attempts) == (made.id, "here", 2)
    for late in (
        lambda session: jobs.renew(session, made.id, "gone", stage="", done=1, total=1),
        lambda session: jobs.finish(session, made.id, "gone", "wrong"),
        lambda session: jobs.fail(session, made.id, "gone", "wrong"),
        lambda session: jobs.release(session, made.id, "gone"),
    ):
        assert not database.change(late)
    assert database.change(lambda session: jobs.fail(session, made.id, "here", '{"code": "corrupt"}'))
    with database.read() as session:
        ended = jobs.get(session, made.id, BOB)
    assert (ended.state, ended.problem, ended.result) == ("failed", '{"code": "corrupt"}', None)
    assert not database.change(lambda session: jobs.finish(session, made.id, "here", "late"))


def test_a_process_that_ends_gives_its_operation_back(database: Database) -> None:
    made = start(database)
    claim(database, "ending")
    assert database.change(lambda session: jobs.release(session, made.id, "ending"))
    taken = claim(database, "other")
    assert taken is not None
    assert (taken.id, taken.runner, taken.attempts) == (made.id, "other", 1)


def test_the_oldest_is_taken_up_first(database: Database) -> None:
    ids = [start(database, str(count)).id for count in range(3)]
    with database.write() as session:
        session.execute(
            text("UPDATE operations SET created_at = '2026-01-02 03:04:05.000000' WHERE id = :id"), {"id": ids[2]}
        )
    claimed = [claim(database, "one") for _ in range(4)]
    assert [one and one.id for one in claimed] == [ids[2], ids[0], ids[1], None]


@ON_POSTGRESQL
def test_two_processes_at_once_take_up_two_operations(database: Database) -> None:
    ids = {start(database, str(count)).id for count in range(2)}
    with database.write() as session:
        first = jobs.claim(session, "one", KINDS)
        second = claim(database, "two")
        third = claim(database, "three")
    assert first is not None
    assert second is not None
    assert ({first.id, second.id}, third) == (ids, None)
