"""A nested folder of adapters: nesting is the path below the base model, parents come before their children.

A folder above an adapter that holds no adapter itself is not a node: every folder on the way down must hold one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.errors import InvalidAdapterError, NotFoundError, UsageError
from registry.folders.refusals import telling_unreadable
from registry.folders.scan import ADAPTER_CONFIG, holds_adapter
from registry.reference import Path as TreePath
from registry.reference import check_adapter_name


@dataclass(frozen=True)
class Node:
    """A publish folder, and the path that its place in the nesting means."""

    folder: Path
    path: TreePath


def nested_adapters(folder: Path, base: str) -> list[Node]:
    """All publish folders below ``folder``; names and nesting are checked before the first is looked into.

    Raises:
        UsageError: ``base`` is not the name of a base model, or a folder's name is outside the grammar.
        NotFoundError: there is no such folder.
        UnavailableError: the folder, or one below it, can't be read.
        InvalidAdapterError: ``missing_file``, no adapter is there, or a folder on the way down holds none.
    """
    root = TreePath.parse(base)
    if not root.is_base:
        raise UsageError(f"publish -r takes a base model, {root.base}; nesting gives the rest.")
    with telling_unreadable(folder):
        if not folder.is_dir():
            raise NotFoundError(f"There is no folder {str(folder)!r}.", code="missing_file")
        nodes = list(_nodes(folder, root))
    if not nodes:
        raise InvalidAdapterError(
            f"{folder} holds no folder with {ADAPTER_CONFIG}; folders of adapters, nested as their paths, are "
            "expected.",
            code="missing_file",
        )
    return nodes


def _nodes(folder: Path, path: TreePath) -> Iterator[Node]:
    """Adapters below a folder, parents before children."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        below = Path(entry.path)
        if not entry.is_dir(follow_symlinks=False) or entry.name.startswith(".") or not holds_adapter(below):
            continue
        if not (below / ADAPTER_CONFIG).is_file():
            raise InvalidAdapterError(
                f"{below} holds adapters in folders below it but no {ADAPTER_CONFIG} itself; every folder on the way "
                "down is one adapter.",
                code="missing_file",
            )
        node = Node(below, TreePath.parse(f"{path}/{check_adapter_name(entry.name)}"))
        yield node
        yield from _nodes(below, node.path)
