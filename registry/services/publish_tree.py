"""Publishing a nested folder: what a stopped run published is found again.

Publishing the same bytes gives the same revision back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from registry.folders.nested import nested_adapters
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.schemas import Published
from registry.services.candidates import Labels
from registry.services.deployment import Deployment
from registry.services.publish import publish


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
    answers: dict[TreePath, Published] = {}
    for node in nested_adapters(folder, base):
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
