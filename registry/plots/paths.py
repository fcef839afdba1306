"""Trees of nodes from paths, which are their labels until they are drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from registry.plots.nodes import Node


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
