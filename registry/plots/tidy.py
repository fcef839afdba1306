"""The tidy layout of trees, in linear time.

Buchheim, Jünger, Leipert: Improving Walker's algorithm to run in linear time (2002), with the names of the paper. Nodes
of a level are in order and apart, a parent stands in the middle of its children, a subtree looks the same wherever it
stands, and small subtrees between larger ones are spread evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

SIBLINGS: Final = 1.0
COUSINS: Final = 1.4  # neighbours with different parents: a family is seen as one


@dataclass(eq=False)
class Placed(Generic[Item]):
    """A node in its place.

    Args:
        item: what stands there.
        level: how many nodes are above it.
        place: across the levels; neighbours of one level are at least `SIBLINGS` apart, and the least of all is 0.
    """

    item: Item
    level: int
    parent: Placed[Item] | None
    children: list[Placed[Item]] = field(default_factory=list)
    place: float = 0.0  # prelim, and then what is final
    _mod: float = 0.0  # of the places of all below
    _thread: Placed[Item] | None = None  # the next of a contour, where it has no child
    _change: float = 0.0
    _shift: float = 0.0
    _number: int = 0  # among its siblings

    def __post_init__(self) -> None:
        self._ancestor = self  # of the nodes of an outer contour: the sibling that they are below

    def all(self) -> list[Placed[Item]]:
        """This and all below, each before its children and in their order."""
        found, ahead = [], [self]
        while ahead:
            found.append(one := ahead.pop())
            ahead += reversed(one.children)
        return found


def tidy(root: Item, children: Callable[[Item], Sequence[Item]]) -> Placed[Item]:
    """A tree with a place for each node."""
    top = Placed(root, 0, None)
    ahead = [top]
    while ahead:
        one = ahead.pop()
        for number, child in enumerate(children(one.item)):
            one.children.append(Placed(child, one.level + 1, one, _number=number))
        ahead += one.children
    order = top.all()
    for one in reversed(order):
        _gather(one)
    for one in order:
        if one.parent is not None:
            one.place += one.parent._mod
            one._mod += one.parent._mod
    least = min(one.place for one in order)
    for one in order:
        one.place -= least
    return top


def _gather(one: Placed[Item]) -> None:
    """Place its children beside each other, whose own subtrees are done, and itself in their middle.

    The paper's first walk gives a node its place beside its left sibling before the next is looked at; here the parent
    does so for all of its children, which is the same without recursion.
    """
    default = one.children[0] if one.children else one
    for number, child in enumerate(one.children):
        middle = child.place
        if number:
            child.place = one.children[number - 1].place + SIBLINGS
            child._mod = child.place - middle
        default = _apportion(child, default)
    shift = change = 0.0
    for child in reversed(one.children):
        child.place += shift
        child._mod += shift
        change += child._change
        shift += child._shift + change
    if one.children:
        one.place = (one.children[0].place + one.children[-1].place) / 2


def _apportion(one: Placed[Item], default: Placed[Item]) -> Placed[Item]:
    """Move a subtree away from those before it, along both contours."""
    siblings = one.parent.children if one.parent else [one]
    if one._number == 0:
        return default
    inner_right = outer_right = one
    inner_left, outer_left = siblings[one._number - 1], siblings[0]
    moved_inner_right, moved_outer_right = inner_right._mod, outer_right._mod
    moved_inner_left, moved_outer_left = inner_left._mod, outer_left._mod
    while (left := _last(inner_left)) is not None and (right := _first(inner_right)) is not None:
        inner_left, inner_right = left, right
        outer_left, outer_right = _there(_first(outer_left)), _there(_last(outer_right))
        outer_right._ancestor = one
        apart = SIBLINGS if left.parent is right.parent else COUSINS
        shift = (left.place + moved_inner_left) - (right.place + moved_inner_right) + apart
        if shift > 0:
            beside = left._ancestor if left._ancestor.parent is one.parent else default
            _move(beside, one, shift)
            moved_inner_right += shift
            moved_outer_right += shift
        moved_inner_left += left._mod
        moved_inner_right += right._mod
        moved_outer_left += outer_left._mod
        moved_outer_right += outer_right._mod
    left_on, right_on = _last(inner_left), _first(inner_right)
    if left_on is not None and _last(outer_right) is None:
        outer_right._thread = left_on
        outer_right._mod += moved_inner_left - moved_outer_right
    elif right_on is not None and _first(outer_left) is None:
        outer_left._thread = right_on
        outer_left._mod += moved_inner_right - moved_outer_left
        default = one
    return default


def _move(left: Placed[Item], right: Placed[Item], shift: float) -> None:
    """Move a subtree, and later those between it and the one that is in its way by a part of that."""
    between = right._number - left._number
    right._change -= shift / between
    right._shift += shift
    left._change += shift / between
    right.place += shift
    right._mod += shift


def _first(one: Placed[Item]) -> Placed[Item] | None:
    return one.children[0] if one.children else one._thread


def _last(one: Placed[Item]) -> Placed[Item] | None:
    return one.children[-1] if one.children else one._thread


def _there(one: Placed[Item] | None) -> Placed[Item]:
    assert one is not None  # an outer contour is at least as long as the inner one beside it
    return one
