"""Publishing a nested folder: nesting is the path below the base model, parents come first.

A folder above an adapter that holds no adapter itself is not a node: every folder on the way down must hold one. What
a stopped run published is found again, since publishing the same bytes gives the same revision back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.errors import InvalidAdapterError, NotFoundError, UsageError
from registry.folders.scan import ADAPTER_CONFIG, holds_adapter
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import check_adapter_name
from registry.schemas import Published
from registry.services.deployment import Deployment
from registry.services.publish import Labels, publish


@dataclass(frozen=True)
class _Node:
    folder: Path
    path: TreePath


def publish_tree(
    deployment: Deployment,
    folder: Path,
    base: str,
    *,
    published: Callable[[Published], None],
    progress: Progress,
) -> tuple[Published, ...]:
    """Publish every adapter in a nested folder; see `registry.services.protocol.Registry.publish_tree`.

    Names and nesting are checked before the first is published. A child's parent is the revision that this run
    published or found for the folder above it.
    """
    root = TreePath.parse(base)
    if not root.is_base:
        raise UsageError(f"publish -r takes a base model, {root.base}; nesting gives the rest.")
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {str(folder)!r}.", code="missing_file")
    nodes = list(_nodes(folder, root))
    if not nodes:
        raise InvalidAdapterError(
            f"{folder} holds no folder with {ADAPTER_CONFIG}; folders of adapters, nested as their paths, are "
            "expected.",
            code="missing_file",
        )
    answers: dict[TreePath, Published] = {}
    for node in nodes:
        above = answers.get(node.path.parent) if node.path.parent else None
        answer = publish(
            deployment,
            node.folder,
            str(node.path),
            parent=above.revision.reference if above else None,
            receipt=None,
            labels=Labels(),
            progress=progress,
        )
        answers[node.path] = answer
        published(answer)
    return tuple(answers.values())


def _nodes(folder: Path, path: TreePath) -> Iterator[_Node]:
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
        node = _Node(below, TreePath.parse(f"{path}/{check_adapter_name(entry.name)}"))
        yield node
        yield from _nodes(below, node.path)
