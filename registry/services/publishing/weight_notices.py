"""Notices about the weights of a publish: returned in its answer, or the reason for refusing it, if so requested."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import torch

from registry.catalogue.changes import notices
from registry.catalogue.changes.notices import Noticed, same_files
from registry.catalogue.changes.publish import NewRevision
from registry.catalogue.tree import revisions
from registry.errors import InvalidAdapterError, UsageError
from registry.files.source import ByteSource
from registry.files.strict_json import shown
from registry.folders.scan import form_of
from registry.reference import Reference
from registry.schemas.tags import MEASURED_CODES, Notice
from registry.services.bases.norms import slot_norms
from registry.services.deployment import Deployment
from registry.services.engine_checks import new_link_fidelity
from registry.services.notices import LinkAtHand, look, of_fidelity, of_modules
from registry.services.publishing.candidates import Candidate
from registry.services.publishing.draft import Draft
from registry.services.publishing.lineage_check import parent_links
from registry.services.publishing.parents import REBASED
from registry.tensors.analysis.directions import Directions, DirectionWatch, largest_element
from registry.tensors.analysis.inner_products import sketch
from registry.tensors.analysis.statistics import delta_statistics
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.kernel import holding, limit_of
from registry.tensors.checkpoint.adapter import LoraPair
from registry.tensors.lineage.inputs import path_table
from registry.tensors.lineage.paths import read_document
from registry.tensors.path.programs import BoundLink

_ROOM: Final = 2
"""What a pair may add stays below this part of a limit: the other is for the weight itself."""
LEAST: Final = min(limit_of(dtype) for dtype in FLOATS.values()) / _ROOM
"""A pair that adds less is not checked: every dtype of a base model holds it."""


def with_notices(
    deployment: Deployment, new: NewRevision, known: Collection[str] | None, directions: Directions | None = None
) -> NewRevision:
    """The revision to publish with what is noticed about it.

    Args:
        deployment: where it is to be published.
        new: the revision.
        known: those of its digests that are stored already; None: not looked up yet.
        directions: of its factors, if these were read.
    """
    found = () if directions is None else of_directions(directions)
    files = {file.path: file.digest for file in new.files}
    form = form_of(files)
    may_be_there = known is None or {files[form.config], files[form.weights]} <= set(known)
    if may_be_there and new.parent_known_by != REBASED:  # which has the files of another revision on purpose
        same = deployment.ask(lambda reader: same_files(reader, new.path, new.digest, files))
        found += () if same is None else (same,)
    return replace(new, noticed=found)


def of_directions(found: Directions) -> tuple[Noticed, ...]:
    """The notices about the directions of an adapter's deltas."""
    return (*of_modules("zero_delta", found.zero, found.pairs), *of_modules("one_direction", found.one, found.pairs))


def kept_notices(deployment: Deployment, reference: str) -> tuple[Notice, ...]:
    """The notices about a revision of the registry."""
    with deployment.read() as session:
        return notices.notices(session, revisions.find(session, Reference.parse(reference)).id)


def refuse_noticed(draft: Draft, noticed: Sequence[Notice]) -> None:
    """Refuse a publish that is strict about what was noticed.

    Raises:
        InvalidAdapterError: with the code of the first notice.
    """
    refused = [one for one in noticed if one.code in draft.strict]
    if refused:
        raise InvalidAdapterError(
            f"{' '.join(one.text for one in refused)} The publish of {draft.path} is strict about that, so nothing was "
            f"published; without --strict={','.join(one.code for one in refused)} it is, with a notice.",
            code=refused[0].code,
        )


def refuse_measured(deployment: Deployment, candidate: Candidate, weights: ByteSource) -> None:
    """Refuse a publish that is strict about notices that need computing: these are computed before it is stored.

    Only siblings that the publisher sees are compared. Those that have no sketch yet get one.

    Raises:
        UsageError: it is strict about `larger_than_base`, and the norms of the base model are not known.
        InvalidAdapterError: with the code of the first notice.
    """
    draft, lineage = candidate.draft, candidate.lineage
    codes = [code for code in draft.strict if code in MEASURED_CODES]
    if not codes:
        return
    norms = slot_norms(deployment, lineage.base) if lineage.exact is None else None
    if norms is None and "larger_than_base" in codes:
        raise UsageError(
            f"Whether a delta is larger than the weight of {lineage.base.name} can't be told before its weights are "
            f"measured: `registry base measure {lineage.base.name}` does that. Or be strict about other notices."
        )
    with ExitStack() as opened:
        table = path_table(deployment, lineage)
        links = [*parent_links(deployment, lineage, opened), BoundLink(candidate.checkpoint, weights)]
        row = candidate.parent.row
        parent = None if row is None else (row.id, row.reference)
        figures = delta_statistics(links, table, since=len(links) - 1, norms=norms)
        link = LinkAtHand(draft.path, parent, links, table, figures, sketch(links, table))
        found = look(deployment, link, codes, measure=True)
        if "low_fidelity" in codes:
            found += of_fidelity(new_link_fidelity(deployment, lineage, links))
        refuse_noticed(draft, [one.notice for one in found])


def check_products(
    deployment: Deployment, candidate: Candidate, watch: DirectionWatch, weights: ByteSource
) -> tuple[str, ...]:
    """Notices about pairs that may add more than the base model's dtype holds, and could not be merged into it.

    Most are cleared by the norm of their delta, which the Gram matrices of the factors gave as the bytes passed by; the
    factors of the others are read once more. A DoRA rescales what its pairs make, and a copy is accepted as in the
    source registry: neither is checked.

    Args:
        deployment: where the base model is.
        candidate: is to be published.
        watch: has seen the bytes of its weights.
        weights: these.

    Raises:
        InvalidAdapterError: ``overflow``, a pair does add more.
    """
    pairs = [candidate.checkpoint.pairs[name] for name in watch.above(LEAST)]
    pairs = [pair for pair in pairs if pair.magnitude is None]
    if not pairs or candidate.draft.origin is not None:
        return ()
    tensors = read_document(deployment, candidate.lineage.base.index)["tensors"]
    risky: list[str] = []
    for pair in pairs:
        dtypes = {FLOATS[tensors[name]["dtype"]] for name in _tensors_of(pair) if name in tensors}
        for dtype in sorted(dtypes, key=limit_of)[:1]:
            largest, bound = largest_element(pair, weights)
            if not largest < limit_of(dtype):
                raise _too_large(pair, dtype, largest, candidate.lineage.base.name)
            if not bound < limit_of(dtype) / _ROOM:
                risky.append(f"{shown(pair.module)} ({_named(dtype)})")
    return tuple(_risky_notice(risky))


def _tensors_of(pair: LoraPair) -> Iterator[str]:
    """The tensors of the base's files that a pair adds to."""
    if pair.fused is not None:
        yield from (piece.tensor for piece in ((pair.piece,) if pair.piece else pair.fused.pieces))
    elif pair.target.tensor is not None:
        yield pair.target.tensor
    yield from (run.tensor for run in pair.target.runs)


def _too_large(pair: LoraPair, dtype: torch.dtype, largest: float, base: str) -> InvalidAdapterError:
    held = holding(torch.tensor(largest, dtype=torch.float64))
    advice = f"Add the base model in {held}, and publish under that one, or publish" if held else "Publish"
    return InvalidAdapterError(
        f"The factors of {shown(pair.module)} add up to {largest:.3g}, which {_named(dtype)}, the dtype of its weight "
        f"in {base}, does not hold, so nothing could be merged. {advice} factors of a usual size.",
        code="overflow",
    )


def _risky_notice(risky: list[str]) -> Iterator[str]:
    if risky:
        more = f" and {len(risky) - 1} more" if len(risky) > 1 else ""
        yield (
            f"The factors of {risky[0]}{more} are so large that what they add may be more than the dtype holds: where "
            "a merge is refused (overflow), its sentence names a dtype that helps."
        )


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
