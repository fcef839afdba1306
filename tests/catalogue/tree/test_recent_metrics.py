"""The metrics of the newest revisions of an adapter, in one query of a bounded number of rows."""

from __future__ import annotations

import pytest

from registry.catalogue.changes import deletion
from registry.catalogue.database.database import Database
from registry.catalogue.tree import browse, revisions
from registry.catalogue.tree.browse import recent_metrics
from registry.errors import NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference
from tests.catalogue.rows import BOB, Writer, rights
from tests.kit.statements import READS, statements

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
