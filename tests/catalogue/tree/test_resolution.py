"""What a reference means, by one prepared query: the same as sessions find, for all rights."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, rename
from registry.catalogue.database.database import Database
from registry.catalogue.tree import browse, old_names, resolution, revisions
from registry.errors import NotFoundError, UsageError
from registry.reference import Path, Reference
from registry.rights import Rights
from tests.catalogue.database.test_query_plans import SENT, prefer_indexes, read_whole
from tests.catalogue.rows import TESTER, Writer, rights
from tests.kit.statements import statements

ALL = rights("reader")
SEEN_BY = (
    ALL,
    rights("admin"),
    rights("reader", "llama/support"),
    rights("reader", "llama/support/french"),
    rights("reader", "llama/support/french/legal", "llama/help"),
    rights("reader", "llama/code"),
    rights("reader", "bert"),
)
PATHS = ("llama/support", "llama/support/french", "llama/support/french/legal", "llama/code", "llama/help", "llama/no")


def plainly(session: Session, reference: Reference) -> object:
    """What it means by the queries that errors and lists are made of."""
    try:
        row = revisions.find(session, reference)
    except (NotFoundError, UsageError):
        return None
    lineage = browse.lineage_entries(session, row.id)
    base = lineage[0].digest
    return (row.reference, row.digest, row.base, base, lineage, old_names.new_name(session, reference.path))


def prepared(database: Database, reference: Reference, seen_by: Rights) -> object:
    meant = database.ask(lambda reader: resolution.resolve(reader, reference), seen_by)
    if meant is None:
        return None
    found = meant.resolved
    return (found.reference, found.digest, found.base, found.base_digest, found.lineage, found.renamed_to)


def references(database: Database) -> list[Reference]:
    with database.read() as session:
        digests = {digest for path in PATHS for digest in revisions.digests(session, Path.parse(path))}
    selectors = ["", "@1", "@2", "@3", "@prod", *(f"@{one}" for one in digests), *(f"@{one[:20]}" for one in digests)]
    return [Reference.parse(path + selector) for path in PATHS for selector in selectors]


def check(database: Database) -> int:
    found = 0
    for seen_by in SEEN_BY:
        with database.read(seen_by) as session:
            for reference in references(database):
                expected = plainly(session, reference)
                assert prepared(database, reference, seen_by) == expected, (seen_by, str(reference))
                found += expected is not None
    return found


@pytest.mark.long_on("postgresql")
@pytest.mark.slow
def test_it_means_the_same_for_all_rights(filled: Database, writer: Writer) -> None:
    assert check(filled) > 40
    with filled.write() as session:
        writer.publish(session, "llama/code", "c2")
        newest = revisions.find(session, Reference.parse("llama/code"))
        deletion.delete(session, newest.id, TESTER)
        rename.rename(session, Path.parse("llama/support"), Path.parse("llama/help"), TESTER)
    assert check(filled) > 40


@pytest.mark.parametrize("selector", ["", "@1", "@prod", "@sha256:" + "0" * 64, "@sha256:" + "0" * 12])
@pytest.mark.parametrize("seen_by", [ALL, rights("reader", "llama/support", "llama/code")])
def test_it_is_one_statement_by_indexes(filled: Database, selector: str, seen_by: Rights) -> None:
    reference = Reference.parse(f"llama/support{selector}")
    prepared(filled, reference, seen_by)
    with statements(*SENT) as sent:
        prepared(filled, reference, seen_by)
    assert len(sent) == 1
    with filled.read() as session:
        prefer_indexes(session)
        assert read_whole(session, *sent[0], in_order=False) == []


@pytest.mark.parametrize("seen_by", [ALL, rights("reader", "llama/code"), rights("reader", "bert")])
def test_a_base_model(filled: Database, seen_by: Rights) -> None:
    base = Reference.parse("llama")
    with statements(*SENT) as sent:
        meant = filled.ask(lambda reader: resolution.resolve(reader, base), seen_by)
    assert len(sent) == 1
    if not seen_by.unlimited and seen_by.scopes[0].base != "llama":
        assert meant is None
    else:
        assert meant is not None
        found = meant.resolved
        assert (found.reference, found.lineage[0].digest, found.renamed_to) == ("llama", found.digest, None)
    filled.change(lambda session: rename.rename_base(session, Path("llama"), Path("alpaca"), TESTER))
    meant = filled.ask(lambda reader: resolution.resolve(reader, base), seen_by)
    assert (meant and meant.resolved.renamed_to) == ("alpaca" if seen_by.unlimited else None)
