"""Digits of commits: recorded as they are computed, found by an index, also where a program of before left them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from alembic import command
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, new_base, rename
from registry.catalogue.database import migrations
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import Adapter, CommitRecord, Revision
from registry.catalogue.database.visibility import INCLUDE_DELETED
from registry.catalogue.store import blobs
from registry.catalogue.tree import bases, commits, revisions
from registry.reference import Path, Reference
from registry.rights import Rights
from registry.schemas.artifacts import KINDS
from registry.services.artifacts.commits import RepoNames
from tests.catalogue.rows import TESTER, Writer, blob, digest_of, rights


def recorded(session: Session) -> dict[tuple[str, int], dict[str, str | None]]:
    columns = [getattr(CommitRecord, kind) for kind in KINDS]
    query = (
        select(Adapter.path, Revision.number, *columns)
        .select_from(Revision)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .join(CommitRecord, CommitRecord.revision_id == Revision.id)
    )
    rows = session.execute(query, execution_options=INCLUDE_DELETED)
    return {(row[0], row[1]): dict(zip(KINDS, row[2:], strict=True)) for row in rows}


def computed(session: Session) -> dict[tuple[str, int], dict[str, str | None]]:
    """By the code that makes commit ids."""
    query = select(Adapter.path, Revision.number, Revision.digest).join(Adapter, Adapter.id == Revision.adapter_id)
    found: dict[tuple[str, int], dict[str, str | None]] = {}
    for path, number, digest in session.execute(query, execution_options=INCLUDE_DELETED):
        base = bases.get(session, path.partition("/")[0])
        found[path, number] = {kind: RepoNames.of(kind, Path.parse(path), base).meaning(digest) for kind in KINDS}
    return found


def test_there_is_a_column_for_each_kind() -> None:
    assert {column.name for column in CommitRecord.__table__.columns} == {"revision_id", *KINDS}


def test_publishing_records_the_digits(filled: Database) -> None:
    with filled.read() as session:
        assert recorded(session) == computed(session)
        assert len(recorded(session)) == 5


def make_table_anew(session: Session) -> None:
    blobs.record(session, [blob("another table")])
    new = new_base.NewTable(digest_of("another"), digest_of("another table"), "config.json", None, ())
    assert new_base.retable(session, bases.get(session, "llama"), new, TESTER)


def delete_one(session: Session) -> None:
    found = revisions.find(session, Reference.parse("llama/code"))
    deletion.delete(session, found.id, TESTER)
    make_table_anew(session)


CHANGES: dict[str, Callable[[Session], object]] = {
    "an adapter is renamed": lambda session: rename.rename(
        session, Path.parse("llama/support"), Path.parse("llama/help-desk"), TESTER
    ),
    "a base model is renamed": lambda session: rename.rename_base(session, Path("llama"), Path("alpaca-2.5"), TESTER),
    "a target table is made anew": make_table_anew,
    "so it is where one is deleted": delete_one,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_digits_records_them_anew(filled: Database, change: str) -> None:
    filled.change(CHANGES[change])
    with filled.read() as session:
        assert recorded(session) == computed(session)


@pytest.fixture
def of_before(filled: Database) -> Iterator[Database]:
    """A registry of the schema before, upgraded."""
    with filled.migrating() as connection:
        command.downgrade(migrations.configuration(connection), "0008")
        connection.exec_driver_sql("UPDATE revisions SET deleted_at = created_at WHERE rank = 64")
    again = Database(filled._engine.url.render_as_string(hide_password=False))
    again.prepare()
    yield again
    again.dispose()


def test_the_migration_records_and_counts(of_before: Database) -> None:
    with of_before.read() as session:
        assert recorded(session) == computed(session)
        assert len(recorded(session)) == 5
        assert dict(session.execute(select(Adapter.path, Adapter.live_revisions)).all()) == {
            "llama/support": 2,
            "llama/support/french": 1,
            "llama/support/french/legal": 1,
            "llama/code": 0,
        }
        assert bases.summary(session, "llama").adapters == 3


def found(database: Database, ref: str, seen_by: Rights | None = None) -> list[str]:
    """The references that the commit of a revision leads to in each view."""
    said = []
    with database.read() as session:
        row = revisions.find(session, Reference.parse(ref))
        base = bases.get(session, row.base)
    with database.read(seen_by or rights("admin")) as session:
        for kind in KINDS:
            names = RepoNames.of(kind, Path.parse(row.path), base)
            for path, digest in commits.candidates(session, kind, names.meaning(row.digest)):
                if names.find(names.commit(row.digest), [digest]) and str(path) == row.path:
                    said.append(f"{path}@{digest}")
    return said


@pytest.mark.parametrize("recorded_ones", [True, False])
def test_a_commit_leads_to_its_revision(filled: Database, recorded_ones: bool) -> None:
    if not recorded_ones:  # as a program of before writes them
        with filled.write() as session:
            session.execute(text("UPDATE commits SET published = NULL, lora = NULL, merged = NULL"))
    with filled.read() as session:
        row = revisions.find(session, Reference.parse("llama/support/french"))
    meant = [f"{row.path}@{row.digest}"] * len(KINDS)
    assert found(filled, "llama/support/french") == meant
    assert found(filled, "llama/support/french", rights("reader", "llama/support")) == meant
    assert found(filled, "llama/support/french", rights("reader", "llama/code")) == []


@pytest.mark.parametrize("recorded_ones", [True, False])
def test_a_deleted_revision_is_not_found(filled: Database, recorded_ones: bool) -> None:
    with filled.read() as session:
        row, base = revisions.find(session, Reference.parse("llama/code")), bases.get(session, "llama")
    with filled.write() as session:
        deletion.delete(session, row.id, TESTER)
        if not recorded_ones:
            session.execute(text("UPDATE commits SET published = NULL, lora = NULL, merged = NULL"))
    with filled.read() as session:
        for kind in KINDS:
            meaning = RepoNames.of(kind, Path.parse(row.path), base).meaning(row.digest)
            assert row.digest not in [digest for _, digest in commits.candidates(session, kind, meaning)]


def test_what_is_missing_is_recorded_bit_by_bit(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        session.execute(text("UPDATE commits SET published = NULL, lora = NULL, merged = NULL WHERE revision_id <> 1"))
    done = [filled.change(lambda session: commits.write_missing(session, 3)) for _ in range(3)]
    assert done == [3, 1, 0]
    with filled.read() as session:
        assert recorded(session) == computed(session)
