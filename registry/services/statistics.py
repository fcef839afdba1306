"""Statistics of a path: recorded ones, or computed from the factors of its links or the base model's weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from registry.catalogue.changes import fingerprints
from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import links as link_rows
from registry.catalogue.tree import revisions
from registry.catalogue.tree import statistics as rows
from registry.catalogue.tree.statistics import Key
from registry.engines.rules import SHOWN_OF
from registry.errors import InvalidAdapterError, NotFoundError, UnavailableError, UsageError
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas.artifacts import FourBits
from registry.schemas.jobs import Looked
from registry.schemas.requests import CheckRequest, DenseStatisticsRequest, ReferenceRequest, StatisticsRequest
from registry.schemas.statistics import DeltaStatistics, DenseStatistics, LinkStatistics, ModuleStatistics, Statistics
from registry.services.artifacts.load import path_in, path_of
from registry.services.bases.norms import slot_norms
from registry.services.browse import resolved
from registry.services.deployment import Deployment
from registry.services.engine_checks import path_fidelity
from registry.tensors.lineage.inputs import exact_between, exact_link
from registry.tensors.lineage.paths import LoadedPath
from registry.tensors.table.slots import Slot

if TYPE_CHECKING:
    from registry.tensors.lineage.inputs import Inputs


log = logging.getLogger(__name__)


def statistics(deployment: Deployment, request: StatisticsRequest, progress: Progress) -> Statistics:
    """What each link of a path added, and all of them together; stored with the revisions once computed.

    Links that the principal does not see are included in the path's figures, and have none of their own.

    Args:
        deployment: the registry.
        request: ``fidelity`` requests an estimate of what rounding would leave, which reads some rows of the base.
        progress: of what has to be computed.

    Raises:
        NotFoundError: a reference names nothing.
        UsageError: ``ref`` is a base model, or ``since`` is no ancestor of it.
        InvalidAdapterError: a link is invalid by the rules of this version, or its delta is not finite.
    """
    path, ids, first = loaded(deployment, request.ref, request.since)
    seen = [n for n in range(first, len(ids)) if deployment.rights.sees(Path.parse(path.links[n].path))]
    wanted = {Key(ids[n], "link"): (n, n + 1) for n in seen}
    whole = Key(ids[-1], "path") if first == 0 else None
    if whole is not None:
        wanted[whole] = (0, len(ids))
    norms = slot_norms(deployment, path.base) if path.exact is None else None
    with deployment.read() as session:
        found = rows.kept(session, wanted.keys(), relative=norms is not None)
    missing = {key: span for key, span in wanted.items() if key not in found}
    spans = [*missing.values(), *([(first, len(ids))] if whole is None else [])]
    made = _computed(deployment, path, spans, norms, progress)
    found |= {key: made[span] for key, span in missing.items()}
    relative = norms is not None
    if missing:
        keep(deployment, {key: found[key] for key in missing}, relative=relative)
    if whole is not None and seen[-1:] == [len(ids) - 1]:
        _unless_read_only(lambda: _look_once(deployment, path, ids, found[Key(ids[-1], "link")], relative=relative))
    fidelity = request.fidelity
    estimated = None if fidelity is None else path_fidelity(deployment, path, fidelity, first)
    if estimated is not None and fidelity == "bf16" and seen[-1:] == [len(ids) - 1]:
        from registry.services.notices import look_at_fidelity

        last = estimated.links[-1]
        _unless_read_only(lambda: look_at_fidelity(deployment, ids[-1], last))
    return Statistics(
        reference=path.reference,
        since=path.links[first - 1].reference if first else path.base.name,
        links=tuple(LinkStatistics(reference=path.links[n].reference, delta=found[Key(ids[n], "link")]) for n in seen),
        path=made[first, len(ids)] if whole is None else found[whole],
        fidelity=estimated,
    )


def keep(deployment: Deployment, made: Mapping[Key, DeltaStatistics | DenseStatistics], *, relative: bool) -> None:
    """Store what was computed, if the registry is writable."""
    _unless_read_only(lambda: deployment.change(lambda session: rows.keep(session, made, relative=relative)))


def looked(deployment: Deployment, ref: str, progress: Progress) -> Looked:
    """Compute and store the statistics of a revision, notices about it, and which engines load it.

    For a revision that was deleted meanwhile nothing. For one that can't be merged in bf16 no fidelity is reported.

    Args:
        deployment: unrestricted.
        ref: ``PATH@N``, as it was published; a renamed adapter is found under its new name.
        progress: of the work.

    Raises:
        InvalidAdapterError: as `statistics`.
        UnavailableError: they could not be stored.
    """
    reference = Reference.parse(ref)
    try:
        renamed_to = resolved(deployment, ReferenceRequest(ref=ref)).renamed_to
        if renamed_to is not None:
            reference = replace(reference, path=Path.parse(renamed_to))
        found = statistics(deployment, StatisticsRequest(ref=str(reference)), progress)
        with deployment.read() as session:
            sketch = fingerprints.kept_sketch(session, revisions.find(session, reference).id)
    except NotFoundError:
        return Looked(reference=ref)
    except InvalidAdapterError as problem:
        if problem.code != "not_composable":
            raise
        return Looked(reference=ref)  # a full fine-tune has no delta to store figures of
    if sketch is None or not sketch.noticed:
        raise UnavailableError(f"What was noticed about {reference} could not be kept; it is looked at again.")
    _look_further(deployment, found.reference)
    return Looked(reference=found.reference)


def _look_further(deployment: Deployment, reference: str) -> None:
    """Fidelity and engines, which are about what is handed out of a revision: not of one that is retracted."""
    from registry.services.engine_checks import check, link_fidelity
    from registry.services.notices import look_at_fidelity

    try:
        with deployment.read() as session:
            image = base_rows.summary(session, Reference.parse(reference).path.base).is_image_model
        for engine in (name for name, kind in SHOWN_OF.items() if (kind == "image") == image):
            check(deployment, CheckRequest(ref=reference, engine=engine))
        rounded = link_fidelity(deployment, reference)
        with deployment.read() as session:
            revision_id = revisions.find(session, Reference.parse(reference)).id
        look_at_fidelity(deployment, revision_id, rounded)
    except (InvalidAdapterError, NotFoundError) as problem:  # such as an overflow in bf16; or retracted meanwhile
        log.info("nothing further is told of %s: %s", reference, problem)


def _unless_read_only(work: Callable[[], None]) -> None:
    try:
        work()
    except UnavailableError as error:  # such as a folder that this user may only read: computed again the next time
        log.debug("statistics are not kept: %s", error)


def _look_once(
    deployment: Deployment, path: LoadedPath, ids: Sequence[int], figures: DeltaStatistics, *, relative: bool
) -> None:
    """Compute the notices about the last link, unless that was done."""
    with deployment.read() as session:
        sketch = fingerprints.kept_sketch(session, ids[-1])
    if sketch is None or not sketch.tells(relative=relative):
        from registry.services.notices import look_at

        look_at(deployment, path, ids, figures, relative=relative)


def loaded(deployment: Deployment, ref: str, since: str | None) -> tuple[LoadedPath, list[int], int]:
    """The path, the keys of its revisions, and the number of its first link that counts.

    Below an exact revision that is the first one after it, which adds to that model.

    Raises:
        InvalidAdapterError: ``not_composable``, it is an exact revision, or one is after ``since``.
    """
    reference = Reference.parse(ref)
    with deployment.read() as session:
        base = base_rows.get(session, reference.path.base)
        if reference.path.is_base:
            raise UsageError(
                f"{ref} is a base model, which no link has changed yet: name an adapter. `registry tree {base.name}` "
                "lists those on it."
            )
        found = link_rows.links(session, reference)
        path = path_of(base, found, with_retracted=True)
        ancestor = None if since is None else path_in(session, Reference.parse(since))
    first = 0 if ancestor is None else len(path.links) - len(path.since(ancestor))
    if path.exact is not None and not path.live:
        raise exact_link(path.exact)
    if path.exact is not None and first < path.dead and ancestor is not None:
        raise exact_between(path, path.exact)
    first = max(first, path.dead)
    return path, [one.revision.id for one in found], first


def _computed(
    deployment: Deployment,
    path: LoadedPath,
    spans: Sequence[tuple[int, int]],
    norms: Mapping[Slot, float] | None,
    progress: Progress,
) -> dict[tuple[int, int], DeltaStatistics]:
    """Statistics of some links together: from a number to before another one, which is the end of its own path."""
    if not spans:
        return {}
    # What is stored already is returned without torch.
    from registry.tensors.analysis.statistics import delta_statistics
    from registry.tensors.lineage.bound import bound_links
    from registry.tensors.lineage.inputs import Inputs

    progress.begin("Computing statistics", len(spans))
    made: dict[tuple[int, int], DeltaStatistics] = {}
    with ExitStack() as opened:
        inputs = Inputs(deployment.artifact_blobs, path, opened)
        bound, dead = bound_links(inputs, path.live), path.dead
        for first, stop in spans:
            if (first, stop) not in made:
                found = delta_statistics(bound[: stop - dead], inputs.table, since=first - dead, norms=norms)
                how = path.links[first].trained_quantised if stop == first + 1 else None
                made[first, stop] = found if how is None else _with_quantisation(inputs, how, found)
            progress.advance(1)
    return made


def _with_quantisation(inputs: Inputs, how: FourBits, found: DeltaStatistics) -> DeltaStatistics:
    """The figures of a link with how far quantising moved the weights that it was trained on, relative to its delta.

    Reads the weights of the modules that it changes, each once: |q| is the same for all links on a base model.
    """
    if inputs.stored.plain is not None:
        return found  # it was trained on the base model itself, which is quantised
    from registry.tensors.arithmetic.threads import in_order
    from registry.tensors.quantised.trained import energy_of_error, matrices_of

    tensors = matrices_of(inputs.table, how)
    modules = [one for one in found.modules if one.module in tensors and one.energy and not one.experts]
    weights, exact = inputs.base_weights(), inputs.path.exact
    base = inputs.path.base.digest if exact is None else exact.digest

    def error(module: ModuleStatistics) -> float:
        tensor = tensors[module.module]
        return _error(_Quantised(base, tensor, str(how), lambda: energy_of_error(weights, tensor, how)))

    errors = dict(zip((one.module for one in modules), in_order(error, modules), strict=True))
    if not errors or not all(map(math.isfinite, errors.values())):
        return found
    whole = math.fsum(errors.values()) / math.fsum(one.energy for one in modules)
    each = {one.module: math.sqrt(errors[one.module] / one.energy) for one in modules}
    told = tuple(one.model_copy(update={_FIGURE: each.get(one.module)}) for one in found.modules)
    return found.model_copy(update={"modules": told, _FIGURE: math.sqrt(whole)})


_FIGURE: Final = "relative_quantisation"


@dataclass(frozen=True)
class _Quantised:
    """A cache key: a tensor of some weights and how it is quantised; and how to measure that."""

    weights: str
    tensor: str
    how: str
    measure: Callable[[], float] = field(compare=False)


@lru_cache(maxsize=1 << 16)
def _error(asked: _Quantised) -> float:
    return asked.measure()


def dense_statistics(deployment: Deployment, request: DenseStatisticsRequest, progress: Progress) -> DenseStatistics:
    """What the links of a path changed together; stored with the revision if it is the whole path.

    Raises:
        NotFoundError: a reference names nothing.
        UsageError: ``ref`` is a base model, or ``since`` is no ancestor of it.
        InvalidAdapterError: a link is invalid by the rules of this version, or a change is not finite.
    """
    path, ids, first = loaded(deployment, request.ref, request.since)
    norms = slot_norms(deployment, path.base) if path.exact is None else None
    since = path.links[first - 1].reference if first else path.base.name
    if first == 0:
        with deployment.read() as session:
            kept = rows.kept_dense(session, ids[-1], relative=norms is not None)
        if kept is not None:
            return kept.model_copy(update={"reference": path.reference, "since": since})  # it may have been renamed
    # What is stored already is returned without torch.
    from registry.tensors.analysis import dense
    from registry.tensors.analysis.dense import ChangedWeights
    from registry.tensors.lineage.bound import bound_links
    from registry.tensors.lineage.inputs import Inputs
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
