"""Dense statistics of a path: what is kept, or else computed from the base model's weights and the adapters."""

from __future__ import annotations

from contextlib import ExitStack

from registry.catalogue.tree import statistics as rows
from registry.catalogue.tree.statistics import Key
from registry.progress import Progress
from registry.schemas.statistics import DenseStatistics
from registry.services.bases.norms import slot_norms
from registry.services.deployment import Deployment
from registry.services.statistics import keep, loaded


def dense_statistics(deployment: Deployment, ref: str, since: str | None, progress: Progress) -> DenseStatistics:
    """What the links of a path changed together; kept with the revision where it is the whole path.

    Raises:
        NotFoundError: a reference names nothing.
        UsageError: ``ref`` is a base model, or ``since`` is no ancestor of it.
        InvalidAdapterError: a link is invalid by the rules of this version, or a change is not finite.
    """
    path, ids, first = loaded(deployment, ref, since)
    norms = slot_norms(deployment, path.base) if path.exact is None else None
    since = path.links[first - 1].reference if first else path.base.name
    if first == 0:
        with deployment.read() as session:
            kept = rows.kept_dense(session, ids[-1], relative=norms is not None)
        if kept is not None:
            return kept.model_copy(update={"reference": path.reference, "since": since})  # it may have been renamed
    # What is kept already is answered without torch.
    from registry.services.artifacts.bound import bound_links
    from registry.services.artifacts.inputs import Inputs
    from registry.tensors.analysis import dense
    from registry.tensors.analysis.dense import ChangedWeights
    from registry.tensors.path.origins import BaseTensors

    with ExitStack() as opened:
        inputs = Inputs(deployment.artifact_blobs, path, opened)
        bound, base = bound_links(inputs, path.live), BaseTensors(inputs.base_weights().tensors)
        changed = ChangedWeights(bound, inputs.table, first - path.dead, lambda: base, path.reference)
        figures = dense.dense_statistics(changed, norms or {}, progress)
    made = DenseStatistics(reference=path.reference, since=since, **figures)
    if first == 0:
        keep(deployment, {Key(ids[-1], "dense"): made}, relative=norms is not None)
    return made
