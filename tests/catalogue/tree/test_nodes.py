"""The tree in parts: down to a depth, and by pages that together are the whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pytest
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion
from registry.catalogue.database.database import Database
from registry.catalogue.tree import nodes, revisions
from registry.catalogue.tree.nodes import Section
from registry.errors import UsageError
from registry.reference import Path, Reference
from registry.rights import UNLIMITED, Rights
from registry.schemas import TreeNode
from tests.catalogue.rows import TESTER, Writer, rights


def paths(found: Iterable[TreeNode]) -> Iterator[str]:
    for node in found:
        yield node.path
        yield from paths(node.children)


def cut(found: Iterable[TreeNode]) -> Iterator[str]:
    for node in found:
        yield from [node.path] if node.more else []
        yield from cut(node.children)


@pytest.fixture
def grown(filled: Database, writer: Writer) -> Database:
    """Beside those of `filled`: siblings that sort between a path and what is below it, and bases without any."""
    with filled.write() as session:
        for name in ("support-2", "support0", "support_x", "support/french-2", "sup", "code/a", "code/a/b"):
            above = Reference.parse(f"llama/{name.rpartition('/')[0]}") if "/" in name else None
            parent = None if above is None else revisions.find(session, above)
            writer.publish(session, f"llama/{name}", name, parent)
        for name in ("bert", "llama-2", "zephyr"):
            writer.base(session, name)
        writer.publish(session, "llama-2/x", "x", None)
        writer.publish(session, "llama/code/a", "gone", revisions.find(session, Reference.parse("llama/code")))
    return filled


@pytest.mark.parametrize("seen", [UNLIMITED, rights("reader", "llama/support/french", "llama/code/a/b")])
def test_pages_together_are_the_whole(grown: Database, seen: Rights) -> None:
    with grown.read(seen) as session:
        for path, depth in itertools.product((None, "llama", "llama/support/french"), (None, 1, 2)):
            check_pages(session, None if path is None else Path.parse(path), depth)


def check_pages(session: Session, where: Path | None, depth: int | None) -> None:
    whole = nodes.tree(session, Section(where, depth))
    revisions_of = {node.path: node.revision for node in every(whole.roots)}
    for size in (1, 2, 5, 100):
        found: dict[str, object] = {}
        after: Path | None = None
        listed: list[str] = []
        while True:
            page = nodes.tree(session, Section(where, depth, after, size))
            for node in every(page.roots):
                assert node.revision == revisions_of[node.path]
                listed += [] if node.path in found or "/" not in node.path else [node.path]
                found[node.path] = node.revision
            if page.next is None:
                break
            assert page.next == listed[-1]
            after = Path.parse(page.next)
        assert found == revisions_of
        assert listed == sorted(listed, key=lambda one: one.split("/"))


def every(found: Iterable[TreeNode]) -> Iterator[TreeNode]:
    for node in found:
        yield node
        yield from every(node.children)


def test_a_page_is_a_tree_by_itself(grown: Database) -> None:
    with grown.read() as session:
        page = nodes.tree(session, Section(after=Path.parse("llama/support/french"), limit=1))
    assert list(paths(page.roots)) == ["llama", "llama/support", "llama/support/french", "llama/support/french/legal"]
    assert page.next == "llama/support/french/legal"


def test_a_depth(grown: Database) -> None:
    with grown.read() as session:
        for path, depth, shown, deeper in (
            (None, 0, ["bert", "llama", "llama-2", "zephyr"], ["llama", "llama-2"]),
            ("llama/support", 0, ["llama/support"], ["llama/support"]),
            ("llama/code", 1, ["llama/code", "llama/code/a"], ["llama/code/a"]),
            ("llama/code", 2, ["llama/code", "llama/code/a", "llama/code/a/b"], []),
        ):
            found = nodes.tree(session, Section(None if path is None else Path.parse(path), depth)).roots
            assert (list(paths(found)), list(cut(found))) == (shown, deeper)


def test_what_is_hidden_or_deleted_is_not_below(grown: Database) -> None:
    with grown.read(rights("reader", "llama/support/french")) as session:
        assert list(cut(nodes.tree(session, Section(depth=0)).roots)) == ["llama"]
    with grown.read(rights("reader", "bert/x")) as session:
        assert list(cut(nodes.tree(session, Section(depth=0)).roots)) == []
    with grown.write() as session:
        deletion.delete_tree(session, Path.parse("llama/code/a"), TESTER)
    with grown.read() as session:
        assert list(cut(nodes.tree(session, Section(Path.parse("llama/code"), 0)).roots)) == []


@pytest.mark.long_on("postgresql")
def test_numbers_out_of_range(grown: Database) -> None:
    for section, said in ((Section(depth=-1), "0 or more"), (Section(limit=0), "1 or more")):
        with grown.read() as session, pytest.raises(UsageError, match=said):
            nodes.tree(session, section)
