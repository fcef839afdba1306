"""The paths that an adapter may have been trained on: the base, the ancestors, all revisions of the parent."""

from __future__ import annotations

from registry.catalogue.tree import bases, revisions
from registry.reference import Path as TreePath
from registry.schemas.transfer import GivenReceipt
from registry.services.artifacts.load import path_to
from registry.services.deployment import Deployment
from registry.services.lineage import LoadedPath, with_ancestors


def parent_candidates(
    deployment: Deployment, path: TreePath, above: TreePath, receipt: GivenReceipt | None
) -> tuple[LoadedPath, ...]:
    """The candidates for a publish to ``path``, whose parent is ``above``, as far as they are visible or proven.

    Raises:
        NotFoundError: the base model, or the adapter above, does not exist.
    """
    with deployment.read() as session:
        base = bases.get(session, above.base)
        rows = {row.id: row for row in revisions.pinnable(session, path)}
        if receipt is not None and receipt.receipt.tip is not None:
            rows |= {row.id: row for row in revisions.pinnable(session, path, digest=receipt.receipt.tip)}
        return with_ancestors(
            [
                path_to(session, base, None),
                *(path_to(session, base, row, with_retracted=True) for row in rows.values()),
            ]
        )
