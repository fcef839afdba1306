"""A revision with all above it and their files, by one query: the same as several simple ones find, for all rights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, rename, retraction
from registry.catalogue.changes.details import annotate
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import Adapter, Revision
from registry.catalogue.tree import browse, links, revisions
from registry.catalogue.tree.links import LinkRow
from registry.errors import NotFoundError, UsageError
from registry.reference import Path, Reference
from registry.rights import Rights
from tests.catalogue.database.test_query_plans import prefer_indexes, read_whole
from tests.catalogue.rows import TESTER, Writer, rights
from tests.catalogue.tree.test_resolution import ALL, SEEN_BY, references
from tests.kit.statements import statements


def newest(session: Session, path: str) -> int | None:
    """The greatest number of an adapter, as the session sees it."""
    numbers = select(func.max(Revision.number)).join(Adapter, Adapter.id == Revision.adapter_id)
    return session.scalar(numbers.where(Adapter.path == path))


def plainly(session: Session, reference: Reference) -> tuple[LinkRow, ...]:
    return tuple(
        LinkRow(row, newest(session, row.path), browse.targets(session, row.id), revisions.files(session, row.id))
        for row in revisions.lineage(session, revisions.find(session, reference).id)
    )


def said(
    ask: Callable[[Session, Reference], tuple[LinkRow, ...]], session: Session, reference: Reference
) -> tuple[LinkRow, ...] | str:
    """The links, or the sentence of the error."""
    try:
        return ask(session, reference)
    except (NotFoundError, UsageError) as error:
        return str(error)


def check(database: Database, seen_by: Rights) -> int:
    found = 0
    for reference in references(database):
        with database.read(seen_by) as session:
            expected, asked = said(plainly, session, reference), said(links.links, session, reference)
            assert asked == expected, (seen_by, str(reference))
            if isinstance(asked, str):
                continue
            assert asked == links.links_to(session, asked[-1].revision.id)
            tip = asked[-1].revision.id
            assert browse.summary_of(session, asked) == browse.summary(session, tip)
            assert browse.labels(session, tip) == labels_of(session, tip)
            found += 1
    return found


def labels_of(session: Session, revision_id: int) -> tuple[tuple[str, ...], dict[str, float]]:
    """Of one revision among others, which several queries find."""
    summary = browse.summaries(session, [revision_id])[revision_id]
    return summary.tags, summary.metrics


@pytest.mark.long
def test_they_are_what_simple_queries_find(filled: Database, writer: Writer) -> None:
    assert sum(check(filled, one) for one in SEEN_BY) > 40
    with filled.write() as session:
        writer.publish(session, "llama/code", "c2")
        support = revisions.find(session, Reference.parse("llama/support@1"))
        metrics, told = {"loss": 0.1 + 0.2, "acc": 1 / 3}, {"note": '"quoted" \\ é\n'}
        annotate(session, support.id, metrics=metrics, annotations=told, principal=TESTER)
        assert (browse.labels(session, support.id)[1], browse.summary(session, support.id).annotations) == (
            metrics,
            told,
        )
        newest_of_code = revisions.find(session, Reference.parse("llama/code"))
        deletion.delete(session, newest_of_code.id, TESTER)
        retraction.retract(session, support.id, "wrong data", TESTER)
        rename.rename(session, Path.parse("llama/support"), Path.parse("llama/help"), TESTER)
    assert sum(check(filled, one) for one in SEEN_BY) > 40


@pytest.mark.parametrize("selector", ["", "@1", "@prod", "@sha256:" + "0" * 64, "@sha256:" + "0" * 12])
@pytest.mark.parametrize("seen_by", [ALL, rights("reader", "llama/support", "llama/code")])
def test_they_are_one_statement_by_indexes(filled: Database, selector: str, seen_by: Rights) -> None:
    reference = Reference.parse(f"llama/support/french{selector}")
    with filled.read(seen_by) as session, statements("WITH") as sent:
        try:
            links.links(session, reference)
        except NotFoundError:
            assert selector not in {"", "@1"}
    assert len(sent) == 1
    with filled.read() as session:
        prefer_indexes(session)
        assert read_whole(session, *sent[0], in_order=False) == []
