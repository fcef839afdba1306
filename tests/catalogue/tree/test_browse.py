"""The tree, the log, behind, metrics and annotations; few queries and the right indexes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from registry.catalogue.changes.details import annotate
from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.tree import browse, nodes, revisions
from registry.catalogue.tree.links import links_to
from registry.catalogue.tree.nodes import Section
from registry.catalogue.tree.revisions import RevisionRow
from registry.catalogue.tree.search import search
from registry.catalogue.tree.tag_moves import subtree
from registry.errors import NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import RevisionSummary, TargetGroup, TreeNode
from registry.schemas.requests import SearchRequest
from tests.catalogue.rows import BOB, Writer
from tests.kit.statements import READS, statements


def drawn(node: TreeNode, depth: int = 0) -> list[str]:
    what = "" if node.revision is None else f"@{node.revision.number}{' behind' if node.revision.behind else ''}"
    return [f"{'  ' * depth}{node.name}{what}", *(line for child in node.children for line in drawn(child, depth + 1))]


def test_the_whole_tree(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        writer.base(session, "bert")
    with filled.read() as session:
        roots = nodes.tree(session).roots
    assert [line for root in roots for line in drawn(root)] == [
        "bert",
        "llama",
        "  code@1",
        "  support@2",
        "    french@1 behind",
        "      legal@1 behind",
    ]
    support = roots[1].children[1].revision
    assert support is not None
    assert (support.tags, support.metrics, support.parent) == ((), {"acc": 0.75, "loss": -1.5}, "llama")
    french = roots[1].children[1].children[0]
    assert (french.path, french.name) == ("llama/support/french", "french")
    assert french.revision is not None
    assert (french.revision.parent, french.revision.annotations) == ("llama/support@1", {"team": "Straße"})


def test_part_of_the_tree(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        writer.publish(session, "llama/support-2", "x")  # stands between support and support/french in byte order
        writer.publish(session, "llama/support0", "y")
    with filled.read() as session:
        support = nodes.tree(session, Section(TreePath.parse("llama/support"))).roots
        llama = nodes.tree(session, Section(TreePath.parse("llama"))).roots
        with pytest.raises(NotFoundError, match="Did you mean llama/support"):
            nodes.tree(session, Section(TreePath.parse("llama/suport")))
        with pytest.raises(NotFoundError, match="no base model lama"):
            nodes.tree(session, Section(TreePath.parse("lama")))
    assert [line for root in support for line in drawn(root)] == [
        "support@2",
        "  french@1 behind",
        "    legal@1 behind",
    ]
    assert [child.name for child in llama[0].children] == ["code", "support", "support-2", "support0"]


def test_an_empty_tree(database: Database) -> None:
    with database.read() as session:
        assert nodes.tree(session).roots == ()


def test_the_log_is_newest_first(filled: Database) -> None:
    with filled.read() as session:
        log = browse.log(session, TreePath.parse("llama/support"))
        with pytest.raises(NotFoundError, match="llama/suport"):
            browse.log(session, TreePath.parse("llama/suport"))
        with pytest.raises(UsageError, match="is a base model"):
            browse.log(session, TreePath.parse("llama"))
    assert [one.reference for one in log.revisions] == ["llama/support@2", "llama/support@1"]
    assert log.revisions[1].tags == ("prod",)


def test_targets_by_leaf_name(filled: Database, writer: Writer) -> None:
    groups = (
        TargetGroup(name="v_proj", modules=3, ranks=(4, 8), scalings=(0.5, 2.0)),
        TargetGroup(name="down_proj", modules=1, ranks=(16,), scalings=(1.0,)),
    )
    with filled.write() as session:
        row = writer.publish(session, "llama/code", "c2", targets=groups)
    with filled.read() as session:
        assert browse.targets(session, row.id) == (groups[1], groups[0])


def test_a_revision_by_itself_is_what_lists_say_of_it(filled: Database) -> None:
    """From its links, which are read anyway: behind where an ancestor has a newer revision, not where it has one."""
    behind = {}
    with filled.read() as session:
        for path in ("llama/support", "llama/support/french", "llama/support/french/legal", "llama/code"):
            for one in browse.log(session, TreePath.parse(path)).revisions:
                found = links_to(session, revisions.find(session, Reference.parse(one.reference)).id)
                assert browse.summary_of(session, found) == browse.summary(session, found[-1].revision.id) == one
                behind[one.reference] = one.behind
    assert {reference for reference, is_behind in behind.items() if is_behind} == {
        "llama/support/french@1",
        "llama/support/french/legal@1",
    }


def test_the_labels_of_a_revision(filled: Database) -> None:
    """Each once, however many metrics it has."""
    with filled.write() as session:
        annotate(session, 1, metrics={"loss": 2.0, "f1": 0.25}, annotations={}, principal=BOB)
    with filled.read() as session:
        assert browse.labels(session, 1) == (("prod",), {"acc": 0.5, "f1": 0.25, "loss": 2.0})


def test_a_revision_that_is_gone(filled: Database) -> None:
    with filled.read() as session, pytest.raises(NotFoundError, match="no longer exists"):
        browse.summary(session, 999)


def test_metrics_and_annotations_change_with_their_history(filled: Database) -> None:
    with filled.write() as session:
        row = revisions.find(session, Reference.parse("llama/support@1"))
        annotate(session, row.id, metrics={"acc": 0.5}, annotations={}, principal=BOB)
        annotate(session, row.id, metrics={"acc": 0.6, "f1@10": 1}, annotations={"team": "a=b, \n c"}, principal=BOB)
    with filled.read() as session:
        summary = browse.summary(session, row.id)
        changes = [(one.subject, one.detail) for one in events.recent(session, 3)]
        assert [one.actor for one in events.recent(session, 4)] == ["bob", "bob", "bob", "tester"]
    assert (summary.metrics, summary.annotations) == ({"acc": 0.6, "f1@10": 1.0}, {"team": "a=b, \n c"})
    assert changes == [
        ("llama/support@1", {"annotation": "team", "old": None, "new": "a=b, \n c"}),
        ("llama/support@1", {"metric": "f1@10", "old": None, "new": 1.0}),
        ("llama/support@1", {"metric": "acc", "old": 0.5, "new": 0.6}),
    ]


@pytest.mark.long_on("postgresql")
@pytest.mark.parametrize(
    ("metrics", "notes"),
    [
        ({"acc": float("nan")}, {}),
        ({"acc": float("-inf")}, {}),
        ({"a>b": 1.0}, {}),
        ({"": 1.0}, {}),
        ({"acc": 10**400}, {}),
        ({}, {"two words": "x"}),
        ({}, {"key": "a\x00b"}),
    ],
)
def test_what_can_not_be_said_about_a_revision(
    filled: Database, metrics: dict[str, float], notes: dict[str, str]
) -> None:
    with pytest.raises(UsageError), filled.write() as session:
        annotate(session, 1, metrics={"good": 1.0} | metrics, annotations=notes, principal=BOB)
    with filled.read() as session:
        assert "good" not in browse.summary(session, 1).metrics


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 99)),
        min_size=1,
        max_size=25,
    )
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_behind_is_what_a_plain_reading_of_its_meaning_gives(database: Database, steps: list[tuple[int, int]]) -> None:
    """Each step publishes to one of ten adapters in four levels, pinned to any revision that its parent has."""
    above = [None, None, 0, 0, 1, 2, 2, 3, 5, 5]
    names = ["a", "b", "a/c", "a/d", "b/e", "a/c/f", "a/c/g", "a/d/h", "a/c/f/i", "a/c/f/j"]
    published: list[list[RevisionRow]] = [[] for _ in above]
    pins: dict[str, RevisionRow | None] = {}

    def behind(reference: str) -> bool:
        pinned = pins[reference]
        if pinned is None:
            return False
        newest = max(row.number for row in published[names.index(pinned.path.removeprefix("llama/"))])
        return newest > pinned.number or behind(pinned.reference)

    with database.write() as session:
        Writer().base(session, "llama")
        for count, (adapter, choice) in enumerate(steps):
            parent_adapter = above[adapter]
            parents = [] if parent_adapter is None else published[parent_adapter]
            if parent_adapter is not None and not parents:
                continue
            pinned = parents[choice % len(parents)] if parents else None
            row = Writer().publish(session, f"llama/{names[adapter]}", f"step {count}", pinned)
            published[adapter].append(row)
            pins[row.reference] = pinned
        for rows in filter(None, published):
            log = browse.log(session, TreePath.parse(rows[0].path))
            assert {one.reference: one.behind for one in log.revisions} == {
                row.reference: behind(row.reference) for row in rows
            }
        shown = [node for root in nodes.tree(session).roots for node in walk(root)]
        assert {node.path: node.revision.behind for node in shown if node.revision} == {
            rows[-1].path: behind(rows[-1].reference) for rows in published if rows
        }
        session.rollback()


def walk(node: TreeNode) -> Iterator[TreeNode]:
    yield node
    for child in node.children:
        yield from walk(child)


def grow(session: Session, writer: Writer, width: int) -> None:
    for first in range(width):
        row = writer.publish(session, f"llama/wide-{first}", f"wide {first}")
        writer.publish(session, f"llama/wide-{first}/child", f"child {first}", row, metrics={"acc": 0.5}, tag="prod")


@pytest.mark.usefixtures("whole_batches")
def test_the_number_of_queries_does_not_grow_with_the_tree(filled: Database, writer: Writer) -> None:
    counted = []
    for width in (2, 30):
        with filled.write() as session:
            grow(session, writer, width)
        with filled.read() as session, statements(*READS) as sent:
            nodes.tree(session)
            search(session, SearchRequest(text="wide", tag="prod"))
            browse.log(session, TreePath.parse("llama/support"))
        counted.append(len(sent))
    assert counted[0] == counted[1] < 25


def test_pages_of_a_log_together_are_the_log(filled: Database, writer: Writer) -> None:
    path = TreePath.parse("llama/code")
    with filled.write() as session:
        for count in range(2, 8):
            writer.publish(session, "llama/code", f"c{count}", tag=f"v{count}")
    with filled.read() as session:
        whole = browse.log(session, path).revisions
        found: list[RevisionSummary] = []
        while page := browse.log(session, path, before=found[-1].number if found else None, limit=3).revisions:
            assert len(page) <= 3
            found += page
    assert tuple(found) == whole
    assert [one.number for one in whole] == list(range(7, 0, -1))


def subtree_in_pages(database: Database, path: str, size: int) -> tuple[str, ...]:
    found: list[str] = []
    while True:
        after = Reference.parse(found[-1]) if found else None
        with database.read() as session:
            page = subtree(session, TreePath.parse(path), after=after, limit=size)
        if not page:
            return tuple(found)
        assert len(page) <= size
        found += page


def test_a_subtree_has_parents_before_children(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        second = revisions.find(session, Reference.parse("llama/support@2"))
        writer.publish(session, "llama/support/french", "f2", second)
        writer.publish(session, "llama/support-2", "x")
    with filled.read() as session:
        everything = subtree(session, TreePath.parse("llama"))
        part = subtree(session, TreePath.parse("llama/support"))
        parents = {
            reference: browse.summary(session, revisions.find(session, Reference.parse(reference)).id).parent
            for reference in everything
        }
        with pytest.raises(NotFoundError, match="llama/suport"):
            subtree(session, TreePath.parse("llama/suport"))
    assert part == (
        "llama/support@1",
        "llama/support@2",
        "llama/support/french@1",
        "llama/support/french@2",
        "llama/support/french/legal@1",
    )
    assert set(everything) - set(part) == {"llama/code@1", "llama/support-2@1"}
    for path, whole in (("llama", everything), ("llama/support", part)):
        for size in (1, 2, 100):
            assert subtree_in_pages(filled, path, size) == whole
    with filled.read() as session, pytest.raises(UsageError, match="the last reference of the previous page"):
        subtree(session, TreePath.parse("llama"), after=Reference.parse("llama/support"), limit=2)
    for place, reference in enumerate(everything):
        assert parents[reference] in ("llama", *everything[:place])
