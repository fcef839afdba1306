"""What rounding would leave of the links of a path, estimated from a bounded sample of the base's rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from registry.digest import hex_of
from registry.errors import UsageError
from registry.reference import Path, Reference
from registry.schemas.form import Dtype
from registry.schemas.statistics import EstimatedFigure, LinkFidelity, PathFidelity
from registry.services.artifacts.inputs import Inputs
from registry.services.artifacts.load import load_path
from registry.services.artifacts.not_composable import exact_between
from registry.services.deployment import Deployment
from registry.services.lineage import LoadedPath

if TYPE_CHECKING:
    from registry.tensors.fidelity.estimate import Estimated, EstimatedPath, Ratio
    from registry.tensors.path.programs import BoundLink


def link_fidelity(deployment: Deployment, ref: str, dtype: Dtype = "bf16") -> LinkFidelity:
    """What is left of a revision's own change once it is merged in a dtype, from about 16 MiB of base rows.

    Without figures where the link changes nothing that can be estimated, such as only replaced values.

    Raises:
        NotFoundError: the reference names nothing.
        RetractedError: it contains a retracted revision.
        UsageError: it is a base model.
        InvalidAdapterError: a link is invalid by the rules of this version; ``overflow``: too large for the dtype.
    """
    path = load_path(deployment, Reference.parse(ref))
    return _of_link(path.reference, _estimated(deployment, path, dtype, len(path.links) - 1).links[-1])


def new_link_fidelity(
    deployment: Deployment, parent: LoadedPath, links: Sequence[BoundLink], dtype: Dtype = "bf16"
) -> LinkFidelity:
    """The same of the last of some links, which goes on ``parent`` and is not published yet."""
    with ExitStack() as opened:
        inputs = Inputs(deployment.artifact_blobs, parent, opened)
        return _of_link(parent.reference, _of_links(inputs, links, dtype, parent.tip, len(links) - 1).links[-1])


def path_fidelity(deployment: Deployment, path: LoadedPath, dtype: Dtype, since: int = 0) -> PathFidelity:
    """The estimate of a path from link number ``since`` on, and of those of these links that the principal sees.

    Raises what `link_fidelity` raises.
    """
    found = _estimated(deployment, path, dtype, since)
    whole = found.path
    return PathFidelity(
        relative_error=_figure(whole.relative_error),
        unchanged_share=_figure(whole.unchanged_share),
        surviving_share=_figure(whole.surviving_share),
        dtype=dtype,
        read=found.read,
        links=tuple(
            _of_link(link.reference, one)
            for link, one in zip(path.links[since:], found.links, strict=True)
            if deployment.rights.sees(Path.parse(link.path))
        ),
        left_out=found.left_out,
    )


def _estimated(deployment: Deployment, path: LoadedPath, dtype: Dtype, since: int) -> EstimatedPath:
    # What is kept of statistics is answered without torch.
    from registry.services.artifacts.bound import bound_links

    if not path.links:
        raise UsageError(f"{path.reference} is a base model, which no link has changed yet: name an adapter.")
    if path.exact is not None and since < path.dead:
        raise exact_between(path, path.exact)
    with ExitStack() as opened:
        inputs = Inputs(deployment.artifact_blobs, path, opened)
        return _of_links(inputs, bound_links(inputs, path.live), dtype, path.tip, since - path.dead)


def _of_links(inputs: Inputs, links: Sequence[BoundLink], dtype: Dtype, seed: str, since: int) -> EstimatedPath:
    """``seed``: a digest that the sample is drawn by: the same rows each time, everywhere."""
    from registry.tensors.arithmetic.dtypes import FLOATS, OPTION_DTYPES
    from registry.tensors.fidelity.estimate import estimate
    from registry.tensors.path.origins import BaseTensors

    base = BaseTensors(inputs.base_weights().tensors)
    drawn_by = int(hex_of(seed)[:16], 16)
    return estimate(links, inputs.table, base, FLOATS[OPTION_DTYPES[dtype]], seed=drawn_by, since=since)


def _of_link(reference: str, one: Estimated) -> LinkFidelity:
    return LinkFidelity(
        reference=reference,
        relative_error=_figure(one.relative_error),
        unchanged_share=_figure(one.unchanged_share),
        surviving_share=_figure(one.surviving_share),
    )


def _figure(one: Ratio | None) -> EstimatedFigure | None:
    return None if one is None else EstimatedFigure(value=one.value, low=one.low, high=one.high)
