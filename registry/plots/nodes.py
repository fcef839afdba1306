"""The nodes of a drawn tree: made of paths, sized and shaded by a number, and of a large tree, which are drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from registry.plots.drawing import SHADES, Measure


@dataclass(frozen=True)
class Scale:
    """A number of some points, and how far each is from the least to the most of them.

    Args:
        name: what the number is.
        values: by point; of those that have it.
        word: a value in words.
    """

    name: str
    values: Mapping[str, float]
    word: Callable[[float], str]

    def part(self, point: str) -> float | None:
        """From 0 to 1; where all are the same, in the middle."""
        if point not in self.values:
            return None
        least, most = min(self.values.values()), max(self.values.values())
        return (self.values[point] - least) / (most - least) if most > least else 0.5

    def shade(self, point: str) -> int | None:
        """From 0 to 7."""
        part = self.part(point)
        return None if part is None else min(SHADES - 1, int(part * SHADES))

    def value_text(self, point: str) -> str | None:
        """The value of a point in words."""
        return self.word(self.values[point]) if point in self.values else None

    @property
    def measure(self) -> Measure | None:
        """The name and range in a legend; None if no point has the number."""
        if not self.values:
            return None
        return Measure(self.name, self.word(min(self.values.values())), self.word(max(self.values.values())))


MOST: Final = 150  # nodes: a page of names that somebody still looks through
WIDEST: Final = 40  # children of one node, where not everything fits
_FEWEST: Final = 3  # children a family: fewer show nothing about it


@dataclass(frozen=True)
class Node:
    """A node and what is seen of it.

    Args:
        label: next to its point; cut in the middle if it is long.
        href: where it leads.
        told: a line shown when it is pointed at, such as the reference and figures. Marks and tags are added to it.
        size: of its point, from 0 to 1; the default size without it.
        shade: of its point, from 0 to 7; hollow without it.
        more: how many nodes below it are not among its children, nor below them.
        more_href: where those are.
        current: the page is about it.
        on_path: of the path that leads to the current one.
        found: what was searched for.
        keep: drawn whatever is folded, as all are that are current, on the path or found.
    """

    label: str
    href: str
    children: tuple[Node, ...] = ()
    told: str = ""
    size: float | None = None
    shade: int | None = None
    behind: bool = False
    retracted: bool = False
    tags: tuple[str, ...] = ()
    more: int = 0
    more_href: str = ""
    current: bool = False
    on_path: bool = False
    found: bool = False
    keep: bool = False

    @property
    def kept(self) -> bool:
        """Whether folding leaves it, if it fits."""
        return self.keep or self.current or self.on_path or self.found


@dataclass
class _Row:
    """A node in the order of the tree."""

    node: Node
    parent: int | None
    level: int
    number: int  # among its siblings


def folded(root: Node, most: int = MOST, widest: int = WIDEST) -> Node:
    """A tree of at most ``most`` nodes, each other one counted in ``more`` of the node that it is folded into.

    First come the marked nodes and all above them: the current path, then in the order of the tree. Then whole
    levels from the root on; of the first that doesn't fit, as many children of each family as fit, if that is at least
    3 a family. If anything is folded, families are cut after ``widest`` children, except marked ones.
    """
    rows = _rows(root)
    if len(rows) <= most:
        return root
    chosen = _kept(rows, most)
    levels: dict[int, list[int]] = {}
    for at, row in enumerate(rows):
        levels.setdefault(row.level, []).append(at)
    for level in levels.values():
        wanted = [at for at in level if at not in chosen and rows[at].parent in chosen and rows[at].number < widest]
        wanted.sort(key=lambda at: rows[at].number)
        room = most - len(chosen)
        if len(wanted) > room:
            each = rows[wanted[room]].number
            if each >= _FEWEST:
                chosen |= {at for at in wanted if rows[at].number < each}
            break
        chosen.update(wanted)
    return _only(rows, chosen)


def _rows(root: Node) -> list[_Row]:
    found: list[_Row] = []
    ahead = [_Row(root, None, 0, 0)]
    while ahead:
        found.append(row := ahead.pop())
        at = len(found) - 1
        ahead += [_Row(one, at, row.level + 1, n) for n, one in reversed([*enumerate(row.node.children)])]
    return found


def _kept(rows: list[_Row], most: int) -> set[int]:
    """The root, and as many of the marked nodes as fit, with all above them."""
    chosen = {0}
    marked = [at for at, row in enumerate(rows) if row.node.kept]
    marked.sort(key=lambda at: not (rows[at].node.current or rows[at].node.on_path))
    for at in marked:
        path: list[int] = []
        above: int | None = at
        while above is not None and above not in chosen:
            path.append(above)
            above = rows[above].parent
        if len(chosen) + len(path) <= most:
            chosen.update(path)
    return chosen


def _only(rows: list[_Row], chosen: set[int]) -> Node:
    """The tree of the chosen nodes, with the others counted."""
    children: dict[int | None, list[Node]] = {}
    hidden: dict[int | None, int] = {}
    for at in reversed(range(len(rows))):
        row = rows[at]
        more = row.node.more + hidden.pop(at, 0)
        if at in chosen:
            below = tuple(reversed(children.pop(at, [])))
            children.setdefault(row.parent, []).append(replace(row.node, children=below, more=more))
        else:
            hidden[row.parent] = hidden.get(row.parent, 0) + 1 + more
    return children[None][0]


def ancestors(paths: Collection[str]) -> set[str]:
    """All that is above some paths, without the first name alone."""
    above: set[str] = set()
    for path in paths:
        names = path.split("/")
        above |= {"/".join(names[:count]) for count in range(2, len(names))}
    return above


def nested(root: str, paths: Sequence[str], at: str, found: Collection[str]) -> Node:
    """Paths below a root, each below the nearest of them that is above it.

    Args:
        root: above all of them.
        paths: in the order of the tree.
        at: which of them is current.
        found: which were searched for.
    """
    under: dict[str, list[str]] = defaultdict(list)
    open_ones = [root]
    for path in paths:
        while not path.startswith(f"{open_ones[-1]}/"):
            open_ones.pop()
        under[open_ones[-1]].append(path)
        open_ones.append(path)

    def node(path: str) -> Node:
        return Node(
            path,
            "",
            tuple(map(node, under[path])),
            current=path == at != root,
            on_path=at.startswith(f"{path}/"),
            found=path in found,
        )

    return node(root)


def labels(root: Node) -> list[str]:
    """The labels of a node and of all below it."""
    seen, ahead = [], [root]
    while ahead:
        seen.append((one := ahead.pop()).label)
        ahead += one.children
    return seen
