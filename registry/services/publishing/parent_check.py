"""Comparing the folder that an adapter was trained on with its possible parents in a registry in process.

The paths that an adapter may have been trained on: the base, the ancestors, all revisions of the parent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from registry.catalogue.tree import bases, revisions
from registry.errors import NotFoundError
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.schemas import FolderCompared
from registry.schemas.transfer import GivenReceipt
from registry.services.artifacts.load import path_to
from registry.services.deployment import Deployment
from registry.services.lineage import Blobs, LoadedPath, with_ancestors
from registry.services.publishing.parent_adapter import search_trained
from registry.services.publishing.parent_folder import look_into
from registry.services.publishing.parent_search import SearchableHere
from registry.transfer.adapter_folder import PublishFolder
from registry.transfer.trained_on import UNTIMED, or_elsewhere


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


@dataclass(frozen=True)
class Planned:
    """In nested folders, the lineage of the folder above, which is not published yet, and where it is read from."""

    lineage: LoadedPath
    blobs: Blobs


def with_compared(
    deployment: Deployment, folder: PublishFolder, progress: Progress, planned: Planned | None = None
) -> PublishFolder:
    """The folder, its request with what the weights are that the adapter was trained on, if these are there.

    Args:
        deployment: where the candidates are.
        folder: the adapter's. Where its parent is to be found, that is searched among all revisions; else they are
            compared with the path's first.
        progress: of the comparison.
        planned: a candidate that is not published yet.

    Raises:
        NotFoundError: the base model, or the adapter above, does not exist.
    """
    trained_on, beside = folder.trained_on, folder.beside or UNTIMED
    if trained_on is None:
        return folder

    def search() -> FolderCompared:
        return search_trained(SearchableHere(deployment), trained_on, beside, progress)

    if folder.request.find_parent:
        return folder.with_request(compared=search())
    path = TreePath.parse(folder.request.path)
    if path.parent is None:  # which is refused elsewhere
        return folder
    try:
        found = parent_candidates(deployment, path, path.parent, folder.request.receipt)
    except NotFoundError:
        if planned is None:
            raise
        found = ()
    known = {one.tip for one in found}
    above = () if planned is None else with_ancestors([planned.lineage])
    candidates = [*found, *(_named(one) for one in above if one.tip not in known)]
    blobs: Blobs = deployment if planned is None else planned.blobs
    compared = look_into(blobs, candidates, trained_on, beside, sampled=folder.sampled, progress=progress)
    return folder.with_request(compared=or_elsewhere(compared, search))


def _named(path: LoadedPath) -> LoadedPath:
    """A path, referred to without a number where its last revision is only planned and has none."""
    return replace(path, reference=path.links[-1].path) if path.links and not path.links[-1].number else path
