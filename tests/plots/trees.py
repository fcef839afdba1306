"""Trees for the tests of drawings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hypothesis import strategies as st

from registry.plots.nodes import Node

PARENTS = st.lists(st.integers(0, 1 << 16), max_size=60)
"""The parent of each node but the first: any of those before it, by what is left of a division."""


def shaped(parents: Sequence[int], make: Callable[[int, tuple[Node, ...]], Node]) -> Node:
    """The tree of these parents."""
    children: dict[int, list[int]] = {}
    for n, parent in enumerate(parents, start=1):
        children.setdefault(parent % n, []).append(n)
    made: dict[int, Node] = {}
    for n in reversed(range(len(parents) + 1)):
        made[n] = make(n, tuple(made[one] for one in children.get(n, ())))
    return made[0]


def numbered(parents: Sequence[int]) -> Node:
    return shaped(parents, lambda n, below: Node(f"n{n}", f"/tree/n{n}", below))


def nodes_of(root: Node) -> Iterator[Node]:
    """All nodes, each before those below it."""
    ahead = [root]
    while ahead:
        yield (one := ahead.pop())
        ahead += reversed(one.children)


def levels(*families: int) -> Node:
    """A tree with so many children of each node on the first level, the second, ..."""

    def made(label: str, href: str, level: int) -> Node:
        count = families[level] if level < len(families) else 0
        below = tuple(made(f"a{n}", f"{href}/a{n}", level + 1) for n in range(count))
        return Node(label, href, below)

    return made("base", "/tree/base", 0)
