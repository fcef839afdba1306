"""Comparing the folder that an adapter was trained on with its possible parents in a registry in process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from registry.errors import NotFoundError
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.schemas import FolderCompared
from registry.schemas.transfer import GivenReceipt
from registry.services.deployment import Deployment
from registry.services.lineage import Blobs, LoadedPath, with_ancestors
from registry.services.publishing.parent_candidates import parent_candidates
from registry.services.publishing.parent_folder import look_into
from registry.transfer.trained_on import TrainedFolder


def compare_trained(
    deployment: Deployment,
    path: TreePath,
    folder: TrainedFolder,
    receipt: GivenReceipt | None,
    weights: Path,
    progress: Progress,
    *,
    planned: LoadedPath | None = None,
    blobs: Blobs | None = None,
) -> FolderCompared | None:
    """The comparison with the weights in the folder; None: ``path`` has no parent, which is refused elsewhere.

    Args:
        deployment: where the candidates are.
        path: the adapter that is published.
        folder: the folder that its configuration names.
        receipt: the folder's, if there is one.
        weights: the adapter's own file.
        progress: of the comparison.
        planned: in nested folders, the lineage of the folder above, which is not published yet.
        blobs: where ``planned`` is read from; the registry's blobs by default.

    Raises:
        NotFoundError: the base model, or the adapter above, does not exist.
    """
    if path.parent is None:
        return None
    try:
        found = parent_candidates(deployment, path, path.parent, receipt)
    except NotFoundError:
        if planned is None:
            raise
        found = ()
    known = {one.tip for one in found}
    above = () if planned is None else with_ancestors([planned])
    candidates = [*found, *(_named(one) for one in above if one.tip not in known)]
    return look_into(blobs or deployment, candidates, folder, weights, progress=progress)


def _named(path: LoadedPath) -> LoadedPath:
    """A path, referred to without a number where its last revision is only planned and has none."""
    return replace(path, reference=path.links[-1].path) if path.links and not path.links[-1].number else path
