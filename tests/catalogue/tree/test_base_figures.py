"""Figures of base models: what is there and seen, added up; and the newest revision that is seen.

The metrics of the newest revisions of an adapter, in one query of a bounded number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from sqlalchemy import select

from registry.catalogue.changes import deletion, rename
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import Adapter, Revision
from registry.catalogue.tree import bases, browse, revisions
from registry.catalogue.tree.browse import recent_metrics
from registry.errors import NotFoundError, UsageError
from registry.reference import Path, Reference
from registry.reference import Path as TreePath
from registry.rights import UNLIMITED, Rights
from registry.schemas.usage import BaseFigures
from tests.catalogue.rows import BOB, TESTER, Writer, rights
from tests.kit.statements import READS, statements


def told(database: Database, seen: Rights = UNLIMITED, *, old_names: bool = False) -> Mapping[str, BaseFigures]:
    with database.read(seen) as session:
        found = bases.summaries(session, with_old_names=old_names, with_figures=True)
    return {base.name: base.figures for base in found if base.figures is not None}


def added_up(database: Database, seen: Rights = UNLIMITED) -> tuple[int, int, str]:
    """The same by looking at each revision of the base model, whose paths begin with its name."""
    query = select(Revision.id, Adapter.path, Revision.number, Revision.size)
    with database.read(seen) as session:
        rows = session.execute(query.join(Adapter, Revision.adapter_id == Adapter.id).order_by(Revision.id)).all()
    rows = [row for row in rows if row.path.startswith("llama/")]
    return len(rows), sum(row.size for row in rows), f"{rows[-1].path}@{rows[-1].number}"


def test_what_is_seen_is_added_up(filled: Database) -> None:
    for seen, newest in (
        (UNLIMITED, "llama/code@1"),
        (rights("reader"), "llama/code@1"),
        (rights("reader", "llama/support"), "llama/support@2"),
        (rights("admin", "llama/support/french"), "llama/support/french/legal@1"),
    ):
        figures = told(filled, seen)["llama"]
        assert (figures.revisions, figures.published, figures.newest) == added_up(filled, seen)
        assert figures.newest == newest
        with filled.read(seen) as session:
            (base,) = bases.summaries(session)
            found = revisions.find(session, Reference.parse(newest))
        assert figures.last_published_at == found.created_at
        weights = sum(file.size for file in base.files if file.path.endswith(".safetensors"))
        assert figures.full_checkpoints == figures.revisions * weights > 0


def test_what_is_deleted_is_not_there(filled: Database) -> None:
    with filled.write() as session:
        newest = revisions.find(session, Reference.parse("llama/code")).id
        deletion.delete(session, newest, TESTER, with_tags=True)
    figures = told(filled)["llama"]
    assert (figures.revisions, figures.published, figures.newest) == added_up(filled)
    assert (figures.revisions, figures.newest) == (4, "llama/support@2")


def test_an_old_name_counts_only_under_itself(filled: Database) -> None:
    before = told(filled)["llama"]
    with filled.write() as session:
        rename.rename(session, Path.parse("llama/support"), Path.parse("llama/help"), TESTER)
    after = told(filled)["llama"]
    assert (after.revisions, after.published) == (before.revisions, before.published)
    only_old = told(filled, rights("reader", "llama/support"))["llama"]
    assert only_old.revisions == 4


def test_a_base_model_without_adapters(database: Database, writer: Writer) -> None:
    with database.write() as session:
        writer.base(session, "llama")
    figures = told(database)["llama"]
    assert (figures.revisions, figures.published, figures.full_checkpoints) == (0, 0, 0)
    assert (figures.newest, figures.last_published_at) == (None, None)


def test_how_much_is_asked_does_not_depend_on_how_much_is_there(filled: Database, writer: Writer) -> None:
    def sent() -> int:
        with statements() as all_of_them:
            told(filled)
        return len(all_of_them)

    before = sent()
    with filled.write() as session:
        for number in range(3):
            writer.publish(session, f"llama/more-{number}", f"more {number}")
    assert sent() == before


PATH = TreePath.parse("llama/series")


@pytest.fixture
def published(filled: Database, writer: Writer) -> Database:
    """llama/series@1..6 with acc; loss of 3 and 5 only; 4 was deleted."""
    with filled.write() as session:
        for number in range(1, 7):
            metrics = {"acc": number / 10, **({"loss": 7.0 - number} if number in {3, 5} else {})}
            writer.publish(session, str(PATH), f"series {number}", metrics=metrics)
        deletion.delete(session, revisions.find(session, Reference.parse(f"{PATH}@4")).id, BOB)
    return filled


def test_each_metric_by_number_the_most_frequent_first(published: Database) -> None:
    with published.read() as session:
        found = recent_metrics(session, PATH)
    assert [(name, [*values.items()]) for name, values in found.items()] == [
        ("acc", [(1, 0.1), (2, 0.2), (3, 0.3), (5, 0.5), (6, 0.6)]),
        ("loss", [(3, 4.0), (5, 2.0)]),
    ]


def test_of_the_newest_alone(published: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "RECENT", 2)
    with published.read() as session:
        with statements(*READS) as sent:
            found = recent_metrics(session, PATH)
        assert len(sent) == 2  # the adapter, then its values
    assert found == {"acc": {5: 0.5, 6: 0.6}, "loss": {5: 2.0}}


def test_where_there_is_none(published: Database) -> None:
    with published.read(rights("reader", "llama/support")) as session, pytest.raises(NotFoundError):
        recent_metrics(session, PATH)
    with published.read() as session, pytest.raises(UsageError):
        recent_metrics(session, TreePath.parse("llama"))
