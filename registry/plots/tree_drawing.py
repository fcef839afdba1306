"""A tree of links as a drawing: the root at the left, a column a level, a row a node.

The tidy layout of trees, in linear time.

Buchheim, Jünger, Leipert: Improving Walker's algorithm to run in linear time (2002), with the names of the paper. Nodes
of a level are in order and apart, a parent stands in the middle of its children, a subtree looks the same wherever it
stands, and small subtrees between larger ones are spread evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import ClassVar, Final, Generic, Literal, TypeVar

from registry.plots.drawing import (
    HEADING,
    HEIGHT,
    LARGEST,
    LEAST,
    POINT,
    SHADES,
    Drawing,
    Measure,
    Sheet,
    cut,
    legend,
    plain,
)
from registry.plots.nodes import Node

Item = TypeVar("Item")

SIBLINGS: Final = 1.0
COUSINS: Final = 1.4  # neighbours with different parents: a family is seen as one


@dataclass(eq=False)
class Placed(Generic[Item]):
    """A node in its place.

    Args:
        item: what stands at this place.
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
    """Place its children side by side, whose own subtrees are done, and itself in their middle.

    The paper's first walk gives a node its place next to its left sibling before the next is looked at; here the parent
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
    assert one is not None  # an outer contour is at least as long as the inner one next to it
    return one


_ROW: Final = 24
_MARGIN: Final = 12
_GAP: Final = 44  # between columns, for the lines
_LETTER: Final = 7.25  # of names, which are set in letters of one width: 0.6 em of 12 px
_SMALL: Final = 6.4  # of tags and counts, of 10.5 px
_WORD: Final = 6.2  # of other text, of 11 px: wide letters of a wide font
_NAME: Final = 28  # letters of a name
_TAGS: Final = 24  # letters of the tags of a node together
_TOLD: Final = 240  # letters of the text about a node
_BESIDE: Final = 15  # from a point to its name
_BEHIND: Final = "behind: its parent has newer revisions"


@dataclass(frozen=True)
class TreeDrawing(Drawing):
    """What is drawn.

    Args:
        title: a line above it.
        about: a sentence for people who don't see it.
        root: with everything below it that is drawn: a few hundred nodes (`registry.plots.nodes.folded`).
        sizes, shades: the meaning of those of the points, if they have one.
    """

    template: ClassVar[str] = "tree_drawing.svg"
    role: ClassVar[Literal["img", "group"]] = "group"

    title: str
    about: str
    root: Node
    sizes: Measure | None = None
    shades: Measure | None = None

    def sheet(self) -> Sheet:
        """Nodes in their rows and columns, the lines between them, and the legend above."""
        placed = tidy(_Row(self.root), _Row.below).all()
        hollow = any(one.item.node.shade is None for one in placed[1:] if not one.item.rest)
        entries = legend(self.sizes, self.shades, hollow=hollow)
        top = HEADING + (HEIGHT if entries else 0) + _MARGIN + _ROW / 2
        columns = _columns(placed)
        for one in placed:
            one.item.x, one.item.y = columns[one.level], top + _ROW * one.place
        right = max([one.item.x + one.item.reach for one in placed] + [entry.end for entry in entries])
        bottom = max(one.item.y for one in placed) + _ROW / 2
        values = {
            "rows": [one.item for one in placed],
            "lines": _lines(placed, columns, path=False),
            "path": _lines(placed, columns, path=True),
            "legend": entries,
            "legend_y": HEADING + HEIGHT // 2,
        }
        return Sheet(right + _MARGIN, bottom + _MARGIN, values)


@dataclass(frozen=True)
class _Part:
    """Something next to a point, from left to right."""

    kind: str
    text: str
    x: float
    width: float


@dataclass(eq=False)
class _Row:
    """A node, or the count of its children that are not drawn, and what stands next to its point."""

    node: Node
    rest: bool = False
    x: float = 0.0
    y: float = 0.0
    parts: list[_Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        node = self.node
        if not self.rest:
            self._add("name", cut(node.label, _NAME), _LETTER)
            if node.retracted:
                self._add("retracted", "retracted", _WORD)
            if node.behind:
                self._add("behind", "behind", _WORD)
            for tag in _tags(node.tags):
                self._add("tag", tag, _SMALL, 10)
        if self.counts:
            self._add("more", f"+{node.more:,} more" if self.rest else f"+{node.more:,}", _SMALL, 10)

    def _add(self, kind: str, text: str, letter: float, padding: float = 0) -> None:
        self.parts.append(_Part(kind, text, self.reach + (8 if self.parts else 0), letter * len(text) + padding))

    @property
    def counts(self) -> bool:
        """Whether it shows how many are not drawn: next to a node, or in a row of their own below those that are."""
        return self.node.more > 0 and self.rest == bool(self.node.children)

    @property
    def reach(self) -> float:
        """How far it reaches to the right of its place."""
        return self.parts[-1].x + self.parts[-1].width if self.parts else 0 if self.rest else _BESIDE

    @property
    def radius(self) -> float:
        """Of the point, whose area grows with the size."""
        size = self.node.size
        return POINT if size is None else sqrt(LEAST**2 + max(0.0, min(1.0, size)) * (LARGEST**2 - LEAST**2))

    @property
    def on_path(self) -> bool:
        """Whether it is of the path to the current node, or that."""
        return (self.node.on_path or self.node.current) and not self.rest

    @property
    def shade(self) -> str:
        """The class of the point."""
        return "plot-hollow" if self.node.shade is None else f"plot-shade-{max(0, min(SHADES - 1, self.node.shade))}"

    @property
    def told(self) -> str:
        """The text about it."""
        node = self.node
        marks = ["retracted"] * node.retracted + [_BEHIND] * node.behind
        tags = ["tags " + ", ".join(node.tags)] if node.tags else []
        below = [f"{node.more:,} below it"] if self.counts else []
        return cut("; ".join([node.told or node.label, *marks, *tags, *below]), _TOLD)

    @property
    def more_href(self) -> str:
        """Where those are that are not drawn."""
        return self.node.more_href or self.node.href

    def below(self) -> list[_Row]:
        """The rows below it."""
        if self.rest or not self.node.children:
            return []
        rest = [_Row(self.node, rest=True)] if self.node.more else []
        return [*map(_Row, self.node.children), *rest]


def _columns(placed: list[Placed[_Row]]) -> list[float]:
    """Where each level begins: right of the longest row of the one above it."""
    reach = [0.0] * (1 + max(one.level for one in placed))
    for one in placed:
        reach[one.level] = max(reach[one.level], one.item.reach)
    columns = [_MARGIN + LARGEST]
    for length in reach[:-1]:
        columns.append(columns[-1] + length + _GAP)
    return columns


def _lines(placed: list[Placed[_Row]], columns: list[float], *, path: bool) -> str:
    """The lines from each node to those below it: straight along its own column, then bent."""
    found: list[str] = []
    for one in placed:
        above = one.parent.item if one.parent else None
        if above is None or (above.on_path and one.item.on_path) != path:
            continue
        bend = columns[one.level] - _GAP + 4
        end = one.item.x - (2 if one.item.rest else one.item.radius + 2)
        middle, y, at = plain((bend + end) / 2), plain(one.item.y), plain(above.y)
        start = f"M{plain(above.x + above.reach + 5)} {at}H{plain(bend)}"
        found.append(f"{start}C{middle} {at} {middle} {y} {plain(end)} {y}")
    return "".join(found)


def _tags(tags: tuple[str, ...]) -> Iterator[str]:
    """As many tags as fit, and the number of others."""
    room = _TAGS
    for at, tag in enumerate(tags):
        room -= len(tag)
        if at and room < 0:
            yield f"+{len(tags) - at}"
            return
        yield cut(tag, _TAGS)
