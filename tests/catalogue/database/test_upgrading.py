"""Schemas of other ages: rows of earlier versions, programs that roll one by one, a team's database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from registry.catalogue.database import events, migrations
from registry.catalogue.database.database import Database, Schema, sqlite_url
from registry.catalogue.store import blobs
from registry.catalogue.tree import bases, revisions
from registry.errors import RegistryError, UnavailableError
from registry.reference import Reference
from tests.catalogue.database.test_processes import finish, start
from tests.catalogue.rows import ON_POSTGRESQL, ON_SQLITE, TESTER, Writer, digest_of
from tests.root import ROOT

WHEN = "'2026-01-02 03:04:05.000000'"
OLD_ROWS = (
    f"INSERT INTO blobs VALUES ('{digest_of('a')}', 1, 'sha256:x', {WHEN})",
    (
        "INSERT INTO base_models SELECT 1, 'llama', '', '', '', '', '', 1, 1, 1, digest, digest, '[]', created_at "
        "FROM blobs"
    ),
    f"INSERT INTO blobs VALUES ('{digest_of('b')}', 2, 'sha256:y', {WHEN})",
    "INSERT INTO base_files SELECT 1, 'config.json', digest FROM blobs WHERE size = 1",
    f"INSERT INTO adapters VALUES (1, 'llama/x', 'x', 1, NULL, 2, {WHEN})",
    f"INSERT INTO revisions VALUES (1, 1, 1, 'sha256:r', NULL, '{{}}', 'm', 'ann', {WHEN}, 8, 1, 1, NULL, '[]')",
    "INSERT INTO revision_files SELECT 1, 'adapter_model.safetensors', digest FROM blobs WHERE size = 2",
    f"INSERT INTO events VALUES (1, {WHEN}, 'publish', 'llama/x@1', 'ann', '{{}}')",
)


@pytest.fixture
def old(empty_url: str) -> Iterator[Database]:
    """A database as the first version left it."""
    database = Database(empty_url)
    with database.migrating() as connection:
        command.upgrade(migrations.configuration(connection), "0001")
        for statement in OLD_ROWS:
            connection.exec_driver_sql(statement)  # not as text(): digests hold colons
    yield database
    database.dispose()


def test_rows_of_the_first_version(old: Database) -> None:
    assert (old.version(), old.schema()) == ("0001", Schema.OLDER)
    old.prepare()
    assert (old.version(), old.schema()) == (migrations.HISTORY[-1], Schema.CURRENT)
    old.ping()
    with old.read() as session:
        (row,) = blobs.rows(session, [digest_of("a")]).values()
        assert row.key == f"blobs/sha256/{digest_of('a')[7:9]}/{digest_of('a')[7:]}"
        assert bases.get(session, "llama").files[0].key == row.key
        found = revisions.find(session, Reference.parse("llama/x"))
        assert (found.number, found.retracted) == (1, None)
        assert revisions.files(session, 1)[0].digest == digest_of("b")
        (event,) = events.recent(session, 9)
        assert (event.token, event.source) == (None, None)
        times = session.execute(text("SELECT count(*) FROM blobs WHERE used_at = created_at")).scalar_one()
    assert times == 2


@pytest.mark.slow
def test_down_to_the_first_version_and_up_again(old: Database) -> None:
    old.prepare()
    with old.migrating() as connection:
        command.downgrade(migrations.configuration(connection), "0001")
        assert connection.execute(text("SELECT count(*) FROM blobs")).scalar_one() == 2
    assert old.schema() is Schema.OLDER
    old.prepare()
    with old.read() as session:
        assert len(blobs.rows(session, [digest_of("a"), digest_of("b")])) == 2


@ON_SQLITE
def test_reading_and_what_is_written_beside_it_upgrade_nothing(old: Database, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith(("-wal", "-shm"))}
    for use in uses(old):
        with pytest.raises(UnavailableError) as caught:
            use()
        assert caught.value.code == "schema_older"
    assert old.version() == "0001"
    old.dispose()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@ON_SQLITE
def test_a_killed_upgrade_leaves_the_database_of_before_and_its_copy(
    old: Database, empty_url: str, tmp_path: Path
) -> None:
    old.dispose()
    (there,) = tmp_path.glob("*.sqlite")
    killed = start(empty_url, "die_upgrading")
    assert finish(killed) == ["reached"]
    assert killed.returncode == -9
    (copy,) = tmp_path.glob("*.before-*")
    for file in (there, copy):
        found = Database(sqlite_url(file))
        assert (found.version(), found.schema()) == ("0001", Schema.OLDER)
        with found.migrating() as connection:
            assert connection.execute(text("SELECT count(*) FROM blobs")).scalar_one() == 2
        found.dispose()
    done = old.prepare()
    assert done is not None
    assert done.copy == copy
    with old.read() as session:
        assert len(blobs.rows(session, [digest_of("a"), digest_of("b")])) == 2


@pytest.mark.slow
def test_processes_that_upgrade_at_once(old: Database, empty_url: str, tmp_path: Path) -> None:
    old.dispose()
    workers = start(empty_url, "many", "4", "prepare")
    assert finish(workers) == ["current"] * 4
    assert workers.returncode == 0
    assert old.version() == migrations.HISTORY[-1]
    with old.read() as session:
        assert len(blobs.rows(session, [digest_of("a"), digest_of("b")])) == 2
    for copy in tmp_path.glob("*.before-*"):
        kept = Database(sqlite_url(copy))
        assert kept.version() == "0001", "a process that came second copies nothing"
        kept.dispose()


def test_every_migration_says_the_oldest_program_that_fits(database: Database) -> None:
    scripts = ScriptDirectory.from_config(migrations.configuration()).walk_revisions()
    said = {one.revision: one.module.OLDEST for one in scripts if one.revision != "0001"}
    with database.read() as session:
        noted: dict[str, str] = dict(session.execute(text("SELECT version, oldest FROM compatibility")).all())
    assert noted == said
    assert set(said) == set(migrations.HISTORY[1:])
    assert all(oldest in migrations.HISTORY for oldest in said.values())
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\d{4})` \| `(\d{4})` \|$", page, flags=re.MULTILINE)) == said


@pytest.mark.parametrize(
    ("oldest", "fits"), [("0001", True), (migrations.HISTORY[-1], True), ("0998", False), (None, False)]
)
def test_a_program_older_than_the_database(
    filled: Database, url: str, writer: Writer, oldest: str | None, fits: bool
) -> None:
    with filled.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0999'"))
        if oldest is not None:
            session.execute(text("INSERT INTO compatibility VALUES ('0999', :oldest)"), {"oldest": oldest})
    older = Database(url)
    if fits:
        assert older.schema() is Schema.CURRENT
        older.ping()
        older.prepare()
        assert older.change(lambda session: writer.publish(session, "llama/code", "c2")).number == 2
        assert older.version() == "0999"
    else:
        for use in (older.ping, older.prepare, older.read().__enter__, lambda: older.change(bases.summaries)):
            with pytest.raises(UnavailableError, match=r"schema 0999, this one supports \d+\): upgrade") as caught:
                use()
            assert caught.value.code == "schema_newer"
    older.dispose()


def uses(database: Database) -> list[Callable[[], object]]:
    return [
        database.ping,
        lambda: database.read().__enter__(),
        lambda: database.write().__enter__(),
        lambda: database.change(bases.summaries),
    ]


@ON_POSTGRESQL
def test_a_teams_database_is_upgraded_when_its_operator_says_so(old: Database, postgres_migrated_url: str) -> None:
    for use in uses(old):
        with pytest.raises(
            UnavailableError, match="no schema yet or an older one: run `registry db upgrade`"
        ) as caught:
            use()
        assert caught.value.code == "schema_older"
    assert old.version() == "0001"
    old.prepare()
    old.ping()
    assert old.change(bases.summaries)[0].name == "llama"


def test_an_error_of_a_migration_is_not_told_as_a_lock(old: Database) -> None:
    with pytest.raises(RegistryError, match=r"no such table|does not exist") as caught, old.migrating() as connection:
        connection.exec_driver_sql("SELECT * FROM nowhere")
    assert caught.value.code != "busy"
    assert "Try again" not in str(caught.value)
    assert old.schema() is Schema.OLDER


@ON_POSTGRESQL
def test_an_empty_database_of_a_team(empty_url: str) -> None:
    database = Database(empty_url)
    assert (database.version(), database.schema()) == (None, Schema.ABSENT)
    for use in uses(database):
        with pytest.raises(UnavailableError, match="run `registry db upgrade`") as caught:
            use()
        assert caught.value.code == "schema_older"
    database.prepare()
    database.change(lambda session: Writer().base(session, "llama"))
    database.dispose()


@ON_POSTGRESQL
def test_an_upgrade_that_waits_for_another_one_for_too_long(old: Database, empty_url: str) -> None:
    impatient = Database(empty_url, busy_timeout=0.1)
    with (
        old.migrating(),
        pytest.raises(UnavailableError, match=r"could not be upgraded.*was changed") as caught,
    ):
        impatient.prepare()
    assert caught.value.code == "busy"
    assert impatient.schema() is Schema.OLDER
    impatient.prepare()
    assert impatient.schema() is Schema.CURRENT
    impatient.dispose()


@ON_POSTGRESQL
@pytest.mark.slow  # the migration waits for five seconds
def test_an_upgrade_beside_a_transaction_that_does_not_end(old: Database, empty_url: str) -> None:
    other = Database(empty_url)
    with old._writer.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM blobs")
        with pytest.raises(UnavailableError, match="because its tables were locked"):
            other.prepare()
    assert other.schema() is Schema.OLDER
    other.prepare()
    other.dispose()


@ON_POSTGRESQL
def test_embedded_files_are_no_matter_of_a_teams_database(old: Database, tmp_path: Path) -> None:
    old.prepare()
    assert list(tmp_path.iterdir()) == []
    assert old.change(lambda session: events.page(session, 1)).next is None
    old.change(lambda session: events.record(session, "tag", "y", TESTER, {}))
    with old.read() as session:
        page = events.page(session, 1)
        assert [one.action for one in page.events] == ["tag"]
        assert events.page(session, 1, page.next).events[0].action == "publish"
