"""Computed notices about a link: its delta compared with the base's weights, its parent's delta, and its siblings'.

A service computes them after each publish, as a job; `registry stats` does if that has not been done. Results are
stored regardless of who may see them: a notice about another revision is shown to principals that see both.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import Final

from registry.catalogue.changes import fingerprints
from registry.catalogue.changes.fingerprints import Sibling
from registry.catalogue.changes.notices import Noticed
from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import links as link_rows
from registry.errors import InvalidAdapterError, NotFoundError, UnavailableError
from registry.reference import Path, Reference
from registry.rights import UNLIMITED, Principal
from registry.schemas.difference import ComparedDelta
from registry.schemas.statistics import DeltaStatistics, LinkFidelity
from registry.schemas.tags import COMPARED_CODES, NoticeCode, notice
from registry.services.artifacts.load import path_of
from registry.services.deployment import Deployment
from registry.tensors.analysis.deltas import SinceLink, compare_deltas
from registry.tensors.analysis.inner_products import likeness, sketch, undone_share
from registry.tensors.lineage.bound import bound_links
from registry.tensors.lineage.inputs import Inputs
from registry.tensors.lineage.paths import LoadedPath
from registry.tensors.path.programs import BoundLink
from registry.tensors.table.targets import TargetTable

NAMED: Final = 3
"""So many modules are named in a notice about more."""
LIKE: Final = 0.99
"""A sibling whose delta has a cosine above this is named."""
KEPT: Final = 0.9
"""A link of whose change a merge in bf16 would preserve less than this share is named."""
NOISE: Final = 1.0
"""A link to which a merge in bf16 would add more noise than this, relative to its change, is named; at least `KEPT`."""
UNDONE: Final = 0.5
"""A parent of whose delta more than this share is undone is named."""
_CANDIDATE: Final = (
    0.8  # sketches of deltas with a cosine of 0.99: above 0.88 in 6000 trials, of one pair of rank 1 each
)
_MOST: Final = 8  # siblings that are compared exactly
_PAGES: Final = 10  # of siblings whose sketches are compared
_NO_NAME: Final = ComparedDelta(reference="", since="")

SERVICE: Final = Principal("registry", UNLIMITED)
"""The principal of these analyses: nobody in particular, and unrestricted."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinkAtHand:
    """The last link of a path, opened, with its figures; published or not."""

    path: Path  # of its adapter
    parent: tuple[int, str] | None  # key and reference of the revision above; None: it is on the base model
    links: Sequence[BoundLink]  # of the path, root first
    table: TargetTable
    figures: DeltaStatistics
    direction: bytes  # its sketch


def look_at(
    deployment: Deployment, path: LoadedPath, ids: Sequence[int], figures: DeltaStatistics, *, relative: bool
) -> None:
    """Analyse the last link of a path, and store its notices.

    Args:
        deployment: the registry.
        path: a path of published revisions.
        ids: their keys.
        figures: of the last link.
        relative: whether the base's norms are known, so that its figures are relative to them too.
    """
    everything = replace(deployment, principal=SERVICE)
    with everything.read() as session:
        kept = fingerprints.kept_sketch(session, ids[-1])
    with ExitStack() as opened:
        inputs = Inputs(everything.artifact_blobs, path, opened)
        bound = bound_links(inputs, path.links)
        direction = sketch(bound, inputs.table) if kept is None else kept.direction
        if kept is None:
            # Before others' are read: of two siblings that are published at once, one sees the other's at least.
            everything.change(lambda session: fingerprints.keep_sketch(session, ids[-1], direction))
        parent = None if len(bound) == 1 else (ids[-2], path.links[-2].reference)
        at_hand = LinkAtHand(Path.parse(path.links[-1].path), parent, bound, inputs.table, figures, direction)
        noticed = look(everything, at_hand, COMPARED_CODES)
    everything.change(
        lambda session: fingerprints.keep_noticed(
            session, ids[-1], noticed, codes=COMPARED_CODES, relative=relative, principal=SERVICE
        )
    )


def look(
    deployment: Deployment, link: LinkAtHand, codes: Collection[NoticeCode], *, measure: bool = False
) -> list[Noticed]:
    """What is noticed about a link, of these codes.

    Args:
        deployment: its principal sees the siblings that are compared.
        link: the link.
        codes: what to look for.
        measure: whether siblings without a sketch get one first, or are left out.
    """
    found: list[Noticed] = []
    if "larger_than_base" in codes:
        found += _larger_than_base(link.figures)
    if "like_sibling" in codes:
        found += _like_sibling(deployment, link, measure=measure)
    if "undoes_parent" in codes:
        found += _undoes_parent(link)
    return found


def of_modules(code: NoticeCode, names: Sequence[str], of: int, value: float | None = None) -> Iterator[Noticed]:
    """One notice about all of some modules; none for no modules."""
    if names:
        yield Noticed(notice(code, modules=len(names), of=of, names=tuple(names[:NAMED]), value=value))


def look_at_fidelity(deployment: Deployment, revision_id: int, found: LinkFidelity) -> None:
    """Store whether a merge in bf16 loses much of a link's change, or drowns it."""
    noticed = tuple(of_fidelity(found))
    deployment.change(lambda session: fingerprints.keep_fidelity(session, revision_id, noticed, SERVICE))


def of_fidelity(found: LinkFidelity) -> Iterator[Noticed]:
    """The notice about what a merge in bf16 leaves of a link's change.

    A base in bf16 does not move where the change is small. One in fp32 is anywhere between two values of bf16: some
    elements move by far too much, the others not at all, and the change survives on average, below the noise of that.
    """
    kept, noise = found.surviving_share, found.relative_error
    if kept is not None and kept.value < KEPT:
        yield Noticed(notice("low_fidelity", value=kept.value))
    elif noise is not None and noise.value > NOISE:
        yield Noticed(notice("low_fidelity", value=noise.value))


def _larger_than_base(figures: DeltaStatistics) -> Iterator[Noticed]:
    ratios = {one.module: one.relative_frobenius or 0.0 for one in figures.modules}
    larger = [name for name, ratio in ratios.items() if ratio > 1]
    yield from of_modules("larger_than_base", larger, len(ratios), max(ratios.values(), default=None))


def _undoes_parent(link: LinkAtHand) -> Iterator[Noticed]:
    if link.parent is None:
        return
    undone = undone_share(link.links, link.table)
    if undone is not None and undone > UNDONE:
        key, reference = link.parent
        yield Noticed(notice("undoes_parent", reference=reference, value=undone), key)


def _like_sibling(deployment: Deployment, link: LinkAtHand, *, measure: bool) -> Iterator[Noticed]:
    for like, one in _candidates(deployment, link, measure=measure):
        cosine = _cosine(deployment, link, one) if like >= _CANDIDATE else None
        if cosine is not None and cosine > LIKE:
            yield Noticed(notice("like_sibling", reference=one.reference, value=cosine), one.id)


def _candidates(deployment: Deployment, link: LinkAtHand, *, measure: bool) -> list[tuple[float, Sibling]]:
    """The siblings whose sketches are most like that of a link, most alike first."""
    best: list[tuple[float, Sibling]] = []
    after: int | None = None
    for _ in range(_PAGES):
        with deployment.read() as session:
            page = fingerprints.siblings(session, link.path, after)
        if measure:
            page = tuple(one if one.direction else one._replace(direction=_measured(deployment, one)) for one in page)
        known = [one for one in page if one.direction is not None]
        alike = likeness(link.direction, [one.direction or b"" for one in known])
        best = nlargest(_MOST, [*best, *zip(alike, known, strict=True)])
        if len(page) < fingerprints.PAGE:
            break
        after = page[-1].place
    return best


def _cosine(deployment: Deployment, link: LinkAtHand, sibling: Sibling) -> float | None:
    """Of a link and a sibling, from their factors; None: one of them is zero, or the sibling can't be compared."""
    try:
        with ExitStack() as opened:
            path = _path_of(deployment, sibling)
            bound = bound_links(Inputs(deployment.artifact_blobs, path, opened), path.live)
            own, other = (SinceLink(_NO_NAME, links, len(links) - 1) for links in (link.links, bound))
            return compare_deltas(own, other, link.table, undone_of="a").cosine
    except (InvalidAdapterError, NotFoundError) as problem:  # by the rules of this version, or deleted meanwhile
        log.info("%s can't be compared: %s", sibling.reference, problem)
        return None


def _measured(deployment: Deployment, sibling: Sibling) -> bytes:
    """Compute and store the sketch of a sibling that has none."""
    with ExitStack() as opened:
        inputs = Inputs(deployment.artifact_blobs, _path_of(deployment, sibling), opened)
        direction = sketch(bound_links(inputs, inputs.path.live), inputs.table)
    try:
        deployment.change(lambda session: fingerprints.keep_sketch(session, sibling.id, direction))
    except UnavailableError as error:  # a registry that can only be read: made again the next time
        log.debug("a sketch is not kept: %s", error)
    return direction


def _path_of(deployment: Deployment, sibling: Sibling) -> LoadedPath:
    reference = Reference.parse(sibling.reference)
    with deployment.read() as session:
        base = base_rows.get(session, reference.path.base)
        return path_of(base, link_rows.links(session, reference), with_retracted=True)
