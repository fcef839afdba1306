"""What goes wrong around the database, each as one sentence with a code."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from registry import errors
from registry.catalogue.database.database import Database, Schema, sqlite_url
from registry.catalogue.database.errors import translated
from registry.catalogue.store import blobs
from tests.catalogue.rows import ON_SQLITE, Writer, blob, digest_of
from tests.root import ROOT

NOBODY = 65534


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="registry-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def as_another(url: str, actions: str) -> list[str]:
    """What the worker prints as a user for whom permissions count: root is asked for none."""
    command = [sys.executable, "-m", "tests.catalogue.worker", url, actions]
    user = {"WORKER_USER": str(NOBODY)} if os.geteuid() == 0 else {}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | user, check=True, capture_output=True, text=True)
    return done.stdout.rpartition("---\n")[2].splitlines()


def fill(folder: Path) -> Path:
    path = folder / "catalogue.sqlite"
    database = Database(sqlite_url(path))
    with database.write() as session:
        Writer().base(session, "llama")
        Writer().publish(session, "llama/shared", "first")
    database.dispose()
    return path


@pytest.mark.slow
def test_a_read_only_folder_can_be_read_and_not_written(open_folder: Path) -> None:
    path = fill(open_folder)
    path.chmod(0o444)
    open_folder.chmod(0o555)
    read, written = as_another(sqlite_url(path), "read+write")
    assert read == "1 llama/shared"
    assert written.startswith(f"read_only The database {path} can't be written")
    assert sorted(open_folder.iterdir()) == [path]


@pytest.mark.slow
def test_a_read_only_file(open_folder: Path) -> None:
    path = fill(open_folder)
    path.chmod(0o444)
    open_folder.chmod(0o777)
    read, written = as_another(sqlite_url(path), "read+write")
    assert read == "1 llama/shared"
    assert written.startswith(f"read_only The database {path} can't be written")


@pytest.mark.slow
def test_a_folder_in_which_nothing_can_be_made(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    path = open_folder / "catalogue.sqlite"
    for answer in as_another(sqlite_url(path), "prepare+write"):
        assert answer.startswith(f"read_only The database {path} can't be written")


@pytest.mark.slow
def test_a_database_that_may_not_be_read(open_folder: Path) -> None:
    path = fill(open_folder)
    path.chmod(0o000)
    assert as_another(sqlite_url(path), "read")[0].startswith(f"unavailable The database {path} can't be opened")


@ON_SQLITE
def test_a_full_disk_leaves_what_was_there(filled: Database) -> None:
    def fill_up() -> None:
        with filled.write() as session:
            pages = session.execute(text("PRAGMA page_count")).scalar_one()
            session.execute(text(f"PRAGMA max_page_count = {pages + 1}"))
            blobs.record(session, (blob(f"full {n}") for n in range(2000)))

    with pytest.raises(errors.UnavailableError, match="no space left") as caught:
        fill_up()
    assert caught.value.code == "disk_full"
    with filled.read() as session:
        assert blobs.rows(session, [digest_of("full 0")]) == {}
        assert blobs.rows(session, [digest_of("s1")])


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_is_no_database(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "catalogue.sqlite"
    path.write_bytes(damage)
    database = Database(sqlite_url(path))
    for use in (database.schema, database.prepare):
        with pytest.raises(errors.IntegrityError, match="is damaged or is not an SQLite database") as caught:
            use()
        assert caught.value.code == "corrupt"
    assert path.read_bytes() == damage
    database.dispose()


@pytest.mark.parametrize(
    ("name", "kind", "code", "sentence"),
    [
        ("SQLITE_IOERR_LOCK", errors.UnavailableError, "unavailable", "network file system without file locks"),
        ("SQLITE_IOERR_SHMMAP", errors.UnavailableError, "unavailable", "Use a local folder, or a PostgreSQL"),
        ("SQLITE_PROTOCOL", errors.UnavailableError, "unavailable", "network file system without file locks"),
        ("SQLITE_IOERR_WRITE", errors.UnavailableError, "unavailable", "can't be used: boom."),
        ("SQLITE_BUSY_SNAPSHOT", errors.UnavailableError, "busy", "is busy"),
        ("SQLITE_READONLY_DIRECTORY", errors.NotAllowedError, "read_only", "is read-only"),
        ("SQLITE_CORRUPT_INDEX", errors.IntegrityError, "corrupt", "restore it from a backup"),
    ],
)
def test_what_sqlite_says(
    tmp_path: Path, name: str, kind: type[errors.RegistryError], code: str, sentence: str
) -> None:
    problem = sqlite3.OperationalError("boom")
    problem.sqlite_errorname = name
    with pytest.raises(kind) as caught, translated("here.sqlite", tmp_path):
        raise problem
    assert caught.value.code == code
    assert sentence in str(caught.value)
    assert "here.sqlite" in str(caught.value)


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "new" / "catalogue.sqlite"))
    with pytest.raises(errors.NotFoundError, match="There is no registry at"), database.read():
        pass
    assert list(tmp_path.iterdir()) == []
    with database.write() as session:
        Writer().base(session, "llama")
    assert database.schema() is Schema.CURRENT
    database.dispose()


def test_names_of_files_with_anything_in_them(tmp_path: Path) -> None:
    path = tmp_path / "50% of a?b#c é" / "catalogue.sqlite"
    database = Database(sqlite_url(path))
    database.prepare()
    database.dispose()
    assert path.exists()


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (id INTEGER)")
    connection.close()
    database = Database(sqlite_url(path))
    with pytest.raises(errors.UnavailableError, match="contains something other than a registry"):
        database.prepare()
    database.dispose()


def test_an_exception_inside_a_write_changes_nothing(filled: Database, writer: Writer) -> None:
    def fail() -> None:
        with filled.write() as session:
            writer.publish(session, "llama/code", "c2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with filled.write() as session:
        assert writer.publish(session, "llama/code", "c3").number == 2


def test_a_read_transaction_writes_nothing_and_sees_one_state(filled: Database, writer: Writer) -> None:
    with pytest.raises(errors.NotAllowedError, match="read-only"), filled.read() as session:
        session.execute(text("DELETE FROM tags"))
    count = text("SELECT count(*) FROM revisions")
    with filled.read() as session:
        before = session.execute(count).scalar_one()
        with filled.write() as other:
            writer.publish(other, "llama/code", "c2")
        assert session.execute(count).scalar_one() == before
    with filled.read() as session:
        assert session.execute(count).scalar_one() == before + 1


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:"])
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(errors.UsageError, match="database URL"):
        Database(url)
