"""The tidy layout: in order, apart, parents in the middle, and the same from both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given, settings

from registry.plots.nodes import Node
from registry.plots.tree_drawing import COUSINS, SIBLINGS, Placed, tidy
from tests.plots.trees import PARENTS, numbered

NEARLY = 1e-6


def placed(root: Node) -> Placed[Node]:
    return tidy(root, lambda node: node.children)


def mirrored(root: Node) -> Node:
    return Node(root.label, root.href, tuple(mirrored(one) for one in reversed(root.children)))


def by_level(top: Placed[Node]) -> dict[int, list[Placed[Node]]]:
    found = defaultdict(list)
    for one in top.all():
        found[one.level].append(one)
    return found


def check_apart(top: Placed[Node]) -> None:
    for level in by_level(top).values():
        for left, right in pairwise(level):
            apart = SIBLINGS if left.parent is right.parent else COUSINS
            assert right.place - left.place >= apart - NEARLY


def check_middle(top: Placed[Node]) -> None:
    assert min(one.place for one in top.all()) == 0
    for one in top.all():
        if one.children:
            middle = (one.children[0].place + one.children[-1].place) / 2
            assert abs(one.place - middle) < NEARLY


def check(root: Node) -> None:
    top = placed(root)
    check_apart(top)
    check_middle(top)
    places = sorted((one.level, round(one.place, 6)) for one in top.all())
    widest = max(place for _, place in places)
    mirror = sorted((one.level, round(widest - one.place, 6)) for one in placed(mirrored(root)).all())
    assert places == mirror


@settings(deadline=None)
@given(parents=PARENTS)
def test_neighbours_of_a_level_are_in_order_and_apart(parents: list[int]) -> None:
    check_apart(placed(numbered(parents)))


@settings(deadline=None)
@given(parents=PARENTS)
def test_a_parent_stands_in_the_middle_of_its_children(parents: list[int]) -> None:
    check_middle(placed(numbered(parents)))


@settings(deadline=None)
@given(parents=PARENTS)
def test_a_tree_and_its_mirror_image_have_mirrored_places(parents: list[int]) -> None:
    root = numbered(parents)
    places = {one.item.label: one.place for one in placed(root).all()}
    other = {one.item.label: one.place for one in placed(mirrored(root)).all()}
    widest = max(places.values())
    assert all(abs(widest - places[label] - place) < 1e-3 for label, place in other.items())


@settings(deadline=None)
@given(parents=PARENTS)
def test_a_subtree_looks_the_same_wherever_it_stands(parents: list[int]) -> None:
    root = numbered(parents)
    alone = [one.place for one in placed(root).all()]
    family = Node("all", "", (numbered([0, 1, 1]), root, numbered([0, 0, 2])))
    inside = [one.place for one in placed(family).children[1].all()]
    moved = {round(there - here, 3) for here, there in zip(alone, inside, strict=True)}
    assert max(moved) - min(moved) < 0.01


def all_trees(nodes: int) -> Iterator[Node]:
    """Every tree of so many nodes."""
    yield from (Node("node", "", children) for children in all_families(nodes - 1))


def all_families(nodes: int) -> Iterator[tuple[Node, ...]]:
    if nodes == 0:
        yield ()
    for first in range(1, nodes + 1):
        for child in all_trees(first):
            yield from ((child, *others) for others in all_families(nodes - first))


def test_every_small_tree_is_tidy() -> None:
    for nodes in range(1, 9):
        for root in all_trees(nodes):
            check(root)


def test_a_deep_child_after_a_shallow_one_is_tidy() -> None:
    """What is below the deep one is compared with the tree at their left, along the shallow one's contour."""
    leaf = Node("leaf", "")
    left = Node("left", "", (Node("one", "", (leaf,)),))
    for width in range(1, 12):
        deep = Node("deep", "", (leaf,) * width)
        for children in ((leaf, deep), (leaf, leaf, deep), (deep, leaf)):
            check(Node("root", "", (left, Node("right", "", children))))


def test_small_subtrees_between_large_ones_are_spread_evenly() -> None:
    large = numbered([0] * 9)
    root = Node("root", "", (large, *(Node(f"{n}", "") for n in range(3)), large))
    places = [one.place for one in placed(root).children]
    steps = {round(right - left, 6) for left, right in pairwise(places)}
    assert len(steps) == 1


def test_chains_and_families_of_thousands_are_placed() -> None:
    assert {one.place for one in placed(numbered(list(range(5000)))).all()} == {0}
    wide = placed(numbered([0] * 10_000))
    assert [one.place for one in wide.children] == [float(n) for n in range(10_000)]
