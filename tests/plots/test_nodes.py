"""Folding: nothing is lost, what is to be kept is kept, and what is left can be looked through."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from registry.plots.nodes import MOST, WIDEST, Node, folded
from tests.plots.trees import PARENTS, levels, nodes_of, numbered, shaped

MARKS = st.sets(st.integers(0, 60), max_size=8)


def marked(parents: list[int], marks: set[int]) -> Node:
    return shaped(parents, lambda n, below: Node(f"n{n}", f"/tree/n{n}", below, found=n in marks, more=n % 3))


def below(root: Node) -> dict[str, set[str]]:
    """The labels of each subtree."""
    return {one.label: {inner.label for inner in nodes_of(one)} for one in nodes_of(root)}


def path_to(root: Node, label: str) -> list[str]:
    return [one.label for one in nodes_of(root) if label in below(one)[one.label]]


@settings(deadline=None)
@given(parents=PARENTS, marks=MARKS, most=st.integers(1, 40), widest=st.integers(1, 6))
def test_every_node_is_drawn_or_counted_once(parents: list[int], marks: set[int], most: int, widest: int) -> None:
    root = marked(parents, marks)
    left = folded(root, most, widest)
    labels = [one.label for one in nodes_of(left)]
    assert len(labels) == len(set(labels)) <= most
    subtrees, mores = below(root), {one.label: one.more for one in nodes_of(root)}
    for one in nodes_of(left):
        drawn = {inner.label for child in one.children for inner in nodes_of(child)}
        counted = sum(inner.more for inner in nodes_of(one))
        hidden = subtrees[one.label] - drawn - {one.label}
        assert counted == len(hidden) + sum(mores[label] for label in subtrees[one.label])


@settings(deadline=None)
@given(parents=PARENTS, marks=MARKS, most=st.integers(1, 40), widest=st.integers(1, 6))
def test_what_is_found_stays_with_all_above_it(parents: list[int], marks: set[int], most: int, widest: int) -> None:
    root = marked(parents, marks)
    found = {label for one in nodes_of(root) if one.found for label in path_to(root, one.label)}
    left = {one.label for one in nodes_of(folded(root, most, widest))}
    assert root.label in left
    if len(found) <= most:
        assert found <= left


@settings(deadline=None)
@given(parents=PARENTS, most=st.integers(1, 70))
def test_children_stay_in_their_order(parents: list[int], most: int) -> None:
    root = numbered(parents)
    order = [one.label for one in nodes_of(root)]
    left = [one.label for one in nodes_of(folded(root, most))]
    assert left == [label for label in order if label in set(left)]


def test_a_tree_that_fits_is_left_as_it_is() -> None:
    root = levels(MOST - 1)
    assert folded(root) is root


def test_levels_are_folded_from_below() -> None:
    left = folded(levels(10, 10, 10))
    assert Counter(len(one.href.split("/")) for one in nodes_of(left)) == {3: 1, 4: 10, 5: 100}
    assert {one.more for one in nodes_of(left) if not one.children} == {10}


def test_a_level_that_does_not_fit_keeps_as_many_children_of_each_family() -> None:
    left = folded(levels(10, 30, 33))
    assert {len(one.children) for one in left.children} == {13}  # 1 + 10 + 10 * 13 of at most 150
    assert {one.more for one in left.children} == {17 * 34}
    assert {one.more for child in left.children for one in child.children} == {33}


def test_one_or_two_of_a_family_are_not_worth_it() -> None:
    left = folded(levels(60, 20), most=150, widest=100)
    assert {len(one.children) for one in left.children} == {0}
    assert {one.more for one in left.children} == {20}


def test_a_family_of_ten_thousand_is_cut() -> None:
    left = folded(levels(10_000))
    assert len(left.children) == WIDEST
    assert left.more == 10_000 - WIDEST


def test_children_of_what_is_cut_are_not_drawn() -> None:
    left = folded(levels(100, 1))
    assert len(list(nodes_of(left))) == 1 + 2 * WIDEST
    assert left.more == 2 * (100 - WIDEST)


def test_what_is_found_too_deep_for_the_room_is_counted() -> None:
    chain = shaped(list(range(20)), lambda n, below: Node(f"n{n}", "", below, found=n == 20))
    left = folded(chain, most=5)
    assert [one.more for one in nodes_of(left)] == [0, 0, 0, 0, 16]


def test_what_is_kept_of_a_cut_family_stands_where_it_was() -> None:
    root = levels(1000)
    children = tuple(replace(one, current=n == 700, keep=n == 300) for n, one in enumerate(root.children))
    left = folded(replace(root, children=children))
    assert [one.label for one in left.children[-3:]] == [f"a{WIDEST - 1}", "a300", "a700"]


def test_the_current_path_comes_before_what_was_found() -> None:
    root = levels(500)
    children = tuple(replace(one, found=n < 499, current=n == 499) for n, one in enumerate(root.children))
    left = folded(replace(root, children=children))
    assert len(left.children) == MOST - 1
    assert left.children[-1].current
