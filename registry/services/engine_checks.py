"""Whether an artifact will do, before it is made: for an engine, and after rounding.

The first is decided by headers and configurations alone, the second estimated from a bounded sample of rows.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from registry.catalogue.changes import notices
from registry.catalogue.changes.notices import KeptAnswer
from registry.catalogue.tree import revisions
from registry.digest import hex_of
from registry.engines.checking import check_limit, check_quantised, engine_check, not_composable
from registry.engines.parts import BaseFacts, Parts
from registry.engines.rules import ENGINES, LAYOUTS, RULES
from registry.errors import InvalidAdapterError, NotFoundError, UnavailableError, UsageError
from registry.images.outgoing import components_of_base
from registry.reference import Path, Reference
from registry.schemas.artifacts import EngineCheck, Options
from registry.schemas.form import Dtype
from registry.schemas.requests import CheckRequest
from registry.schemas.statistics import EstimatedFigure, LinkFidelity, PathFidelity
from registry.services.artifacts.load import load_path
from registry.services.artifacts.opened import Asked, ask, open_asked
from registry.services.deployment import Deployment
from registry.tensors.lineage.inputs import Inputs, exact_between
from registry.tensors.lineage.paths import LoadedPath, read_blob
from registry.tensors.lineage.plan import links_of
from registry.transfer.model_files import CONFIG

if TYPE_CHECKING:
    from registry.tensors.fidelity.estimate import Estimated, EstimatedPath, Ratio
    from registry.tensors.path.programs import BoundLink


def link_fidelity(deployment: Deployment, ref: str, dtype: Dtype = "bf16") -> LinkFidelity:
    """What is left of a revision's own change once it is merged in a dtype, from about 16 MiB of base rows.

    Without figures if the link changes nothing that can be estimated, such as only replaced values.

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
    """The same for the last of some links, which is trained on ``parent`` and not published yet."""
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
    # Stored statistics are returned without torch.
    from registry.tensors.lineage.bound import bound_links

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


log = logging.getLogger(__name__)


def check(deployment: Deployment, request: CheckRequest) -> EngineCheck:
    """Judge what ``fetch --for`` would write, before truncation. The result for defaults is stored with the revision.

    Raises:
        NotFoundError: a reference names nothing.
        RetractedError: it contains a retracted revision.
        UsageError: ``ref`` is a base model, ``since`` is no ancestor, or the engine can't have such a limit.
    """
    found = _checked(deployment, request)
    if request.since is None and request.max_lora_rank is None and request.base_quantization is None:
        _keep(deployment, found)
    return found


def _checked(deployment: Deployment, request: CheckRequest) -> EngineCheck:
    limit = check_limit(request.engine, request.max_lora_rank)
    check_quantised(request.engine, request.base_quantization)
    options = Options(kind="lora", since=request.since, uniform=ENGINES[request.engine].uniform)
    asked = ask(deployment, request.ref, options)
    reference = asked.path.reference
    try:
        with open_asked(deployment, asked) as artifact:
            base = _facts(deployment, asked.path)
            return engine_check(
                reference,
                artifact,
                request.engine,
                limit,
                base=base,
                since=request.since,
                quantised=request.base_quantization,
            )
    except InvalidAdapterError as problem:
        if problem.code != "not_composable":
            raise
        parts = _parts(deployment, asked) if request.engine in LAYOUTS else None
        if parts is None:
            return not_composable(reference, request.engine, str(problem), limit)
        return engine_check(reference, parts, request.engine, limit, since=request.since)


def _parts(deployment: Deployment, asked: Asked) -> Parts | None:
    """What a path changes that no adapter of PEFT equals; None: nor is there a file of another form that does."""
    from registry.services.artifacts.composed import parts_of_path

    base = _facts(deployment, asked.path)
    with ExitStack() as opened:
        inputs = Inputs(deployment.artifact_blobs, asked.path, opened)
        try:
            return parts_of_path(inputs, links_of(asked.path, asked.ancestor, asked.options), base)
        except InvalidAdapterError as problem:
            if problem.code != "not_composable":
                raise
            return None


def _keep(deployment: Deployment, found: EngineCheck) -> None:
    """Store the result with the revision, for `show`."""
    codes = tuple(reason.code for reason in found.reasons)
    answer = KeptAnswer(found.engine, RULES[found.engine], codes, found.rank)

    def work(session: Session) -> None:
        revision_id = revisions.find(session, Reference.parse(found.reference)).id
        if answer not in notices.kept_answer(session, revision_id):
            notices.keep_answer(session, revision_id, answer)

    try:
        deployment.change(work)
    except (NotFoundError, UnavailableError) as error:  # deleted meanwhile; or a folder that may only be read
        log.debug("the answer of %s is not kept: %s", found.engine, error)


def _facts(deployment: Deployment, path: LoadedPath) -> BaseFacts:
    """The facts in the base model's files."""
    with ExitStack() as opened:
        inputs = Inputs(deployment.artifact_blobs, path, opened)
        table, is_image = inputs.table, inputs.is_image_model
    config = next((file for file in path.base.files if file.path == CONFIG), None)
    document = {} if config is None else json.loads(read_blob(deployment.artifact_blobs, config))
    kind = document.get("model_type")
    components = components_of_base(table.targets) if is_image else None
    return BaseFacts(kind if isinstance(kind, str) else None, components)
