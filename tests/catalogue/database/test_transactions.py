"""Write transactions beside others, and on connections that break: what is done again, and what is said."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Session

from registry.catalogue.changes import new_base, tagging
from registry.catalogue.database import transactions
from registry.catalogue.database.database import Database, PoolUse
from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import Revision
from registry.catalogue.team import tokens
from registry.catalogue.tree import bases, browse, repo_rows, revisions, search
from registry.errors import NotFoundError, RegistryError, UnavailableError, UsageError
from registry.reference import Path, Reference
from registry.schemas.requests import SearchRequest
from tests.catalogue.rows import BOB, ON_POSTGRESQL, ON_SQLITE, TESTER, Writer

SUPPORT = Path.parse("llama/support")
_PROCESS = Prepared(lambda _: select(func.pg_backend_pid().label("process")))


def attempts(work: Callable[[Session, int], object]) -> tuple[Callable[[Session], object], list[int]]:
    """``work`` with the number of its attempt; and the attempts that there were."""
    made: list[int] = []

    def attempt(session: Session) -> object:
        made.append(len(made) + 1)
        return work(session, made[-1])

    return attempt, made


def end_connection(database: Database, process: int) -> None:
    """The server ends a connection, as when it is shut down."""
    with database.write() as session:
        session.execute(text("SELECT pg_terminate_backend(:process, 5000)"), {"process": process})


def process_of(session: Session) -> int:
    process: int = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    return process


def test_the_answer_and_the_errors_of_the_work_come_through(filled: Database, writer: Writer) -> None:
    row = filled.change(lambda session: writer.publish(session, "llama/code", "c2"))
    assert row.number == 2

    def fail(session: Session, _: int) -> None:
        writer.publish(session, "llama/code", "c3")
        raise ZeroDivisionError

    work, made = attempts(fail)
    with pytest.raises(ZeroDivisionError):
        filled.change(work)
    assert made == [1]
    assert filled.change(lambda session: writer.publish(session, "llama/code", "c4")).number == 3


@ON_POSTGRESQL
def test_a_serialisation_failure_is_not_seen(filled: Database) -> None:
    def work(session: Session, attempt: int) -> None:
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        row = revisions.find(session, Reference.parse("llama/support@2"))
        if attempt == 1:
            filled.change(lambda other: tagging.set_tag(other, row.id, "prod", BOB))
        session.execute(text("UPDATE tags SET revision_id = 1 WHERE name = 'prod'"))

    attempt, made = attempts(work)
    filled.change(attempt)
    assert made == [1, 2]


@ON_POSTGRESQL
def test_a_lost_race_for_a_name_is_not_seen(filled: Database, writer: Writer) -> None:
    def work(session: Session, attempt: int) -> tuple[object, bool]:
        there = bases.summaries(session)
        if attempt == 1:
            filled.change(lambda other: writer.base(other, "bert"))
            assert len(there) == 1
        session.execute(text("SELECT 1"))
        if len(there) == 1:
            row = "INSERT INTO base_models SELECT 99, 'bert', digest, table_digest, files_digest, architecture, "
            row += (
                "table_source, parameters, tensors, size, index_blob, table_blob, notices, created_at FROM base_models"
            )
            session.execute(text(row + " WHERE name = 'llama'"))
        return new_base.add(session, writer.new_base("bert"), TESTER)

    attempt, made = attempts(work)
    answer = filled.change(attempt)
    assert made == [1, 2]
    assert isinstance(answer, tuple)
    assert answer[1] is False


@ON_POSTGRESQL
def test_a_deadlock_is_not_seen(filled: Database, url: str) -> None:
    quick = Database(f"{url}?options=-c deadlock_timeout=50ms")
    meet = threading.Barrier(2)
    ids = {"prod": 1, "next": 2}
    with filled.write() as session:
        tagging.set_tag(session, revisions.find(session, Reference.parse("llama/support@2")).id, "next", TESTER)

    def move(first: str, second: str) -> list[int]:
        def work(session: Session, attempt: int) -> None:
            for tag in (first, second):
                session.execute(text("UPDATE tags SET revision_id = revision_id WHERE name = :tag"), {"tag": tag})
                if tag == first and attempt == 1:
                    meet.wait(120)

        attempt, made = attempts(work)
        quick.change(attempt)
        return made

    with ThreadPoolExecutor() as pool:
        tried = sorted(pool.map(move, ids, reversed(ids)), key=len)
    assert tried[0] == [1]
    assert len(tried[1]) > 1
    quick.dispose()


@ON_POSTGRESQL
def test_trying_has_an_end(filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "_LONGEST_PAUSE", 0)

    def work(session: Session, _: int) -> None:
        session.execute(text("DO $$ BEGIN RAISE EXCEPTION 'unlucky' USING ERRCODE = '40001'; END $$"))

    attempt, made = attempts(work)
    with pytest.raises(UnavailableError, match="is busy: another process locked it for too long") as caught:
        filled.change(attempt)
    assert caught.value.code == "busy"
    assert len(made) == transactions.TRIES


@ON_SQLITE
def test_what_sqlite_refuses_once_it_will_refuse_again(filled: Database) -> None:
    attempt, made = attempts(lambda session, _: session.execute(text("INSERT INTO tags VALUES (1, 'prod', 1)")))
    with pytest.raises(UnavailableError, match="rejected a change"):
        filled.change(attempt)
    assert made == [1]


@ON_POSTGRESQL
def test_a_connection_lost_before_the_commit_is_replaced_once(filled: Database, writer: Writer) -> None:
    def work(session: Session, attempt: int) -> int:
        row = writer.publish(session, "llama/code", "c2")
        if attempt <= losses:
            end_connection(filled, process_of(session))
        session.execute(text("SELECT 1"))
        return row.number

    losses = 1
    attempt, made = attempts(work)
    assert filled.change(attempt) == 2
    assert made == [1, 2]
    losses = 2
    attempt, made = attempts(work)
    with pytest.raises(UnavailableError, match=r"can't be (used|reached)"):
        filled.change(attempt)
    assert made == [1, 2]
    with filled.read() as session:
        assert [row.number for row in browse.log(session, Path.parse("llama/code")).revisions] == [2, 1]


@ON_POSTGRESQL
def test_a_connection_lost_in_the_commit_leaves_it_open_and_is_not_tried_again(
    filled: Database, writer: Writer
) -> None:
    def work(session: Session, _: int) -> None:
        writer.publish(session, "llama/code", "c2")
        process = process_of(session)
        event.listen(session, "before_commit", lambda _: end_connection(filled, process))

    attempt, made = attempts(work)
    with pytest.raises(UnavailableError, match=r"it is not known whether the change was made\. Run it again") as caught:
        filled.change(attempt)
    assert caught.value.code == "unavailable"
    assert made == [1]
    assert filled.change(lambda session: writer.publish(session, "llama/code", "c2")).number == 2


@ON_POSTGRESQL
def test_connections_that_died_while_idle_are_not_seen(filled: Database, url: str) -> None:
    other = Database(url)
    secret = filled.change(lambda session: tokens.create(session, TESTER, "reader")).secret
    tokens.sign_in(filled, secret)
    attempt, made = attempts(lambda session, _: process_of(session))

    def read() -> int:
        with filled.read() as session:
            return process_of(session)

    def write() -> int:
        with filled.write() as session:
            return process_of(session)

    uses: tuple[Callable[[], object], ...] = (
        read,
        write,
        lambda: filled.change(attempt),
        lambda: tokens.sign_in(filled, secret),
        lambda: filled.snapshot(lambda reader: reader.rows(_PROCESS, {})),
        filled.ping,
        filled.version,
    )
    for use in uses:
        process = read()
        end_connection(other, process)
        use()
        assert read() != process
    assert made == [1]
    other.dispose()


@ON_POSTGRESQL
def test_the_rest_of_the_pool_died_too(filled: Database, url: str) -> None:
    other = Database(url)
    with filled.read() as one, filled.read() as two:
        processes = [process_of(one), process_of(two)]
    for process in processes:
        end_connection(other, process)
    with filled.read() as one, filled.read() as two:
        assert not {process_of(one), process_of(two)} & set(processes)
    other.dispose()


def test_forty_threads_at_once(filled: Database, writer: Writer) -> None:
    def publish(number: int) -> str:
        row = filled.change(lambda session: writer.publish(session, f"llama/{number % 2}", f"thread {number}"))
        with filled.read() as session:
            return revisions.get(session, row.id).reference

    with ThreadPoolExecutor(40) as pool:
        published = list(pool.map(publish, range(80)))
    assert sorted(published) == sorted(f"llama/{path}@{number}" for path in (0, 1) for number in range(1, 41))


def test_the_pool_in_numbers(filled: Database, backend: str) -> None:
    size = 40 if backend == "postgresql" else None
    assert filled.pool() == PoolUse(0, 1, size)
    with filled.read() as one, filled.read() as two:
        assert len(bases.summaries(one)) == len(bases.summaries(two)) == 1
        assert filled.pool() == PoolUse(2, 0, size)


@ON_POSTGRESQL
def test_waits_have_limits_and_the_url_comes_first(filled: Database, url: str) -> None:
    def setting(database: Database, name: str) -> str:
        with database.read() as session:
            value: str = session.execute(text(f"SHOW {name}")).scalar_one()
            return value

    assert setting(filled, "application_name") == "adapter-registry"
    assert setting(filled, "statement_timeout") == "30s"
    assert setting(filled, "lock_timeout") == "10s"
    own = Database(f"{url}?options=-c statement_timeout=700ms&application_name=mine")
    assert (setting(own, "application_name"), setting(own, "statement_timeout")) == ("mine", "700ms")
    assert setting(own, "lock_timeout") == "10s"
    with pytest.raises(UnavailableError) as caught, own.read() as session:
        session.execute(text("SELECT pg_sleep(30)"))
    assert caught.value.code == "busy"
    own.dispose()


@ON_POSTGRESQL
def test_a_lock_that_is_held_for_too_long(filled: Database, url: str, writer: Writer) -> None:
    impatient = Database(f"{url}?options=-c lock_timeout=50ms")
    with filled.write() as session:
        writer.publish(session, "llama/code", "c2")
        with pytest.raises(UnavailableError) as caught:
            impatient.change(lambda other: writer.publish(other, "llama/code", "c3"))
        assert impatient.change(lambda other: writer.publish(other, "llama/support", "s3")).number == 3
    assert caught.value.code == "busy"
    impatient.dispose()


def test_reading_sees_one_state(filled: Database, writer: Writer) -> None:
    with filled.read() as session:
        before = browse.log(session, SUPPORT).revisions
        filled.change(lambda other: writer.publish(other, "llama/support", "s3"))
        assert browse.log(session, SUPPORT).revisions == before
    with filled.read() as session:
        assert len(browse.log(session, SUPPORT).revisions) == len(before) + 1


def test_prepared_reads_and_what_the_session_asks_itself_see_one_state(filled: Database, writer: Writer) -> None:
    newest = Reference.parse("llama/support")
    with filled.read() as session:
        before = revisions.find(session, newest).number  # by the driver alone
        filled.change(lambda other: writer.publish(other, "llama/support", "s3"))
        assert browse.log(session, SUPPORT).revisions[0].number == before
        assert revisions.find(session, newest).number == before
    with filled.read() as session:
        assert revisions.find(session, newest).number == before + 1


@ON_POSTGRESQL
@pytest.mark.parametrize("asked_itself", [False, True])
@pytest.mark.parametrize("later", [lambda session: reading(session).rows(_PROCESS, {}), lambda session: None])
def test_a_connection_lost_while_reading_is_given_up(
    filled: Database, url: str, asked_itself: bool, later: Callable[[Session], object]
) -> None:
    other = Database(url)

    def read() -> None:
        with filled.read() as session:
            if asked_itself:
                session.execute(text("SELECT 1"))
            end_connection(other, reading(session).rows(_PROCESS, {})[0].process)
            later(session)

    with pytest.raises(UnavailableError, match="can't be used"):
        read()
    assert filled.pool().in_use == 0
    with filled.read() as session:
        assert revisions.find(session, Reference.parse("llama/support@2")).number == 2
    other.dispose()


@ON_POSTGRESQL
def test_reading_can_change_nothing(filled: Database) -> None:
    with pytest.raises(RegistryError, match="read-only") as caught, filled.read() as session:
        session.execute(text("DELETE FROM tags"))
    assert caught.value.code == "read_only"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:geheim@127.0.0.1:1/registry",
        "postgres://ann:geheim@127.0.0.1:1/registry",
        "postgresql+psycopg://127.0.0.1:1/registry?user=ann&password=geheim",
        "postgresql://ann:geheim@/registry?host=127.0.0.1&port=1",
    ],
)
def test_a_server_that_is_down_and_no_password_in_what_is_said(url: str) -> None:
    database = Database(url)
    for use in (database.ping, database.schema, database.version, lambda: database.change(bases.summaries)):
        with pytest.raises(
            UnavailableError, match=r"The database postgresql://\S+ can't be reached: .*refused"
        ) as caught:
            use()
        assert "geheim" not in str(caught.value)
        assert "geheim" not in database.where
        assert caught.value.code == "unavailable"
    database.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql//ann:geheim@host/registry",
        "postgresql://ann:geheim@host:port/registry",
        "postgresql+asyncpg://ann:geheim@host/registry",
        "mysql://ann:geheim@host/registry",
    ],
)
def test_a_malformed_url_is_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="expected sqlite:///FILE or postgresql://") as caught:
        Database(url)
    assert "geheim" not in str(caught.value)


@ON_POSTGRESQL
def test_a_wrong_name_of_a_database(url: str) -> None:
    database = Database(url.rpartition("/")[0] + "/nowhere")
    with pytest.raises(UnavailableError, match='database "nowhere" does not exist'):
        database.ping()
    database.dispose()


def test_work_that_finds_nothing(database: Database) -> None:
    with pytest.raises(NotFoundError, match="no base model llama"):
        database.change(lambda session: revisions.find(session, Reference(SUPPORT)))


@ON_POSTGRESQL
def test_lists_are_planned_for_the_values_in_them(filled: Database) -> None:
    """However often a connection runs them: of others PostgreSQL keeps a plan for all values."""
    kept = text("SELECT statement FROM pg_prepared_statements")
    with filled.read() as session:
        for _ in range(8):
            session.scalar(select(Revision.id).where(Revision.number == 1).limit(1))
        assert len(session.execute(kept).all()) == 1
        for _ in range(8):
            search.search(session, SearchRequest(text="message", base="llama"), limit=5)
            repo_rows.adapters_listed(session, after="", limit=5)
        told = [one for (one,) in session.execute(kept) if "walked" in one or "page" in one or "count" in one]
    assert told == []
