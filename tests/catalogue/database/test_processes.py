"""Several real processes on one database: numbers, locks, kills."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from sqlalchemy import text

from registry.catalogue.database.database import Database, Schema
from registry.catalogue.tree import browse
from registry.errors import UnavailableError
from registry.reference import Path as TreePath
from tests.catalogue.rows import ON_SQLITE, Writer
from tests.root import ROOT

WORKERS = 16


def start(url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.catalogue.worker", url, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=120)
    return output.splitlines()


@pytest.mark.slow
@pytest.mark.long_on("sqlite")
def test_sixteen_processes_publish_without_gap_or_loss(database: Database, url: str, writer: Writer) -> None:
    with database.write() as session:
        writer.base(session, "llama")
    each = 3
    workers = start(url, "many", str(WORKERS), "publish", "#", str(each))
    acknowledged = [(line.split()[0], line.split()[1]) for line in finish(workers)]
    assert workers.returncode == 0
    assert len({reference for reference, _ in acknowledged}) == len(acknowledged) == 2 * WORKERS * each
    with database.read() as session:
        stored = {
            row.reference: row.digest
            for path in ["shared", *(f"own-{worker}" for worker in range(WORKERS))]
            for row in browse.log(session, TreePath("llama", (path,))).revisions
        }
        shared = [row.number for row in browse.log(session, TreePath("llama", ("shared",))).revisions]
    assert stored == dict(acknowledged)
    assert shared == list(range(WORKERS * each, 0, -1))


@pytest.mark.long_on("sqlite")
def test_publishing_to_what_is_renamed_meanwhile_loses_nothing(database: Database, url: str, writer: Writer) -> None:
    with database.write() as session:
        writer.base(session, "llama")
        writer.publish(session, "llama/shared", "first")
    renames, others = 6, 7
    workers = start(url, "many", str(others + 1), "chase", "#", str(renames))
    acknowledged = [line.partition(" ")[2] for line in finish(workers)]
    assert workers.returncode == 0
    assert len(set(acknowledged)) == len(acknowledged) == others * renames
    with database.read() as session:
        newest = browse.log(session, TreePath("llama", (f"shared-{renames - 1}",))).revisions
        assert sorted(one.message for one in newest) == sorted([*acknowledged, "message of first"])
        assert [one.number for one in newest] == list(range(len(newest), 0, -1))
        said = {one.number: (one.digest, one.message) for one in newest}
        before = 0
        for name in ("shared", *(f"shared-{number}" for number in range(renames - 1))):
            old = browse.log(session, TreePath("llama", (name,))).revisions
            assert {one.number: (one.digest, one.message) for one in old}.items() <= said.items()
            assert [one.number for one in old] == list(range(len(old), 0, -1))  # what there was when it was renamed
            assert len(old) >= before
            assert {one.renamed_to for one in old} == {newest[0].path}
            before = len(old)


@pytest.mark.long_on("sqlite")
@pytest.mark.slow
def test_sixteen_processes_prepare_an_empty_database(empty_url: str) -> None:
    workers = start(empty_url, "many", str(WORKERS), "prepare")
    assert finish(workers) == ["current"] * WORKERS
    assert workers.returncode == 0


@pytest.mark.long_but("inside", "sqlite")
@pytest.mark.parametrize(("moment", "left"), [("inside", 0), ("after", 1)])
def test_a_killed_writer_leaves_all_or_nothing(
    database: Database, url: str, writer: Writer, moment: str, left: int
) -> None:
    with database.write() as session:
        writer.base(session, "llama")
    killed = start(url, "die", moment)
    assert finish(killed) == ["reached"]
    assert killed.returncode == -9
    with database.read() as session:
        for table in ("adapters", "revisions", "revision_files", "revision_targets"):
            assert session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == left
    with database.write() as session:
        assert writer.publish(session, "llama/shared", "next").number == left + 1


def test_a_killed_migration_leaves_nothing(empty_url: str) -> None:
    assert finish(start(empty_url, "die_migrating")) == ["reached"]
    database = Database(empty_url)
    assert database.schema() is Schema.ABSENT
    database.prepare()
    assert database.schema() is Schema.CURRENT
    database.dispose()


@ON_SQLITE
def test_a_locked_database_says_so_and_can_still_be_read(filled: Database, url: str, writer: Writer) -> None:
    holder = start(url, "hold")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "reached\n"
    impatient = Database(url, busy_timeout=0.1)
    with pytest.raises(UnavailableError) as caught, impatient.write() as session:
        writer.publish(session, "llama/code", "c2")
    assert caught.value.code == "busy"
    assert re.fullmatch(
        r"The database \S+ is busy: another process locked it for too long\. Try again\.", str(caught.value)
    )
    with impatient.read() as session:
        assert browse.log(session, TreePath("llama", ("code",))).revisions[0].number == 1
    finish(holder)
    with impatient.write() as session:
        assert writer.publish(session, "llama/code", "c2").number == 2
    impatient.dispose()
