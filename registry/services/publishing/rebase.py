"""Putting a revision on another revision of its parent: the same files, checked against it, as a new revision.

A revision that only adds keeps its meaning: its delta is added to other weights. What it replaces stays as it was
trained. A DoRA is refused, since its magnitudes are those of the weights it was trained on, and so are copies of whole
weights of the parent, which would contradict the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from registry.catalogue.changes import retraction
from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import browse
from registry.catalogue.tree import links as link_rows
from registry.errors import ConflictError, InvalidAdapterError, UsageError
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.operations.publication import Labels
from registry.progress import Progress
from registry.reference import Reference, meant_alone
from registry.schemas import DerivedFrom, RevisionSummary
from registry.schemas.publishing import Rebased, RebasedValue, RebaseRequest
from registry.schemas.statistics import DeltaStatistics
from registry.schemas.transfer import FileClaim
from registry.services.artifacts.load import path_of
from registry.services.bases.norms import slot_norms
from registry.services.deployment import Deployment
from registry.services.publishing.candidates import Candidate, check_draft
from registry.services.publishing.draft import Draft, Said
from registry.services.publishing.lineage_check import check_lineage
from registry.services.publishing.lookup import Claims
from registry.services.publishing.publish import publish_draft
from registry.tensors.analysis.statistics import delta_statistics
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.lineage.bound import bound_links
from registry.tensors.lineage.inputs import Inputs, exact_link, open_source
from registry.tensors.lineage.paths import LoadedPath, read_blob

_ANOTHER: Final = ", and what a revision was trained on can't be replaced by another adapter"


def rebase(deployment: Deployment, request: RebaseRequest, progress: Progress) -> Rebased:
    """Rebase a revision; see `registry.operations.registry.Registry.rebase`. The right to publish was checked before.

    Raises:
        NotFoundError: a reference names nothing.
        RetractedError: the revision, or what it is to be put on, was retracted. A retracted old parent does not prevent
            it.
        UsageError: it is a base model, is directly on one, or is on that parent already.
        ConflictError: ``parent_mismatch``, ``onto`` is no revision of its parent.
        InvalidAdapterError: ``not_rebasable``; ``not_composable``, over an exact revision; or it does not fit the new
            parent, as when it is published on that.
    """
    old = _to_rebase(deployment, request)
    with ExitStack() as opened:
        draft, claims = _drafted(deployment, request, old, opened)
        candidate = check_draft(deployment, draft, claims)
        if candidate.parent.digest == old.path.links[-2].digest:
            raise UsageError(
                f"{old.path.reference} is on {candidate.parent.reference} already: give another revision with --onto."
            )
        refused = _why_not(old, candidate.checkpoint)
        if refused is not None and not request.dry_run:
            raise InvalidAdapterError(refused, code="not_rebasable")
        if refused is None:
            weights = open_source(deployment, old.path.links[-1].file(ADAPTER_WEIGHTS), opened)
            check_lineage(deployment, candidate.lineage, candidate.checkpoint, weights)
        report = _report(deployment, old.path, candidate, opened)
        if request.dry_run:
            return report.model_copy(update={"refused": refused})
        pinned = replace(draft, said=Said(f"{draft.path.parent}@{candidate.parent.digest}"))
        published = publish_draft(deployment, pinned, claims, progress)  # on what was compared, whatever is newer now
    return report.model_copy(update={"revision": published.revision, "created": published.created})


@dataclass(frozen=True)
class _Old:
    """The revision to rebase, with its path."""

    path: LoadedPath
    summary: RevisionSummary


def _to_rebase(deployment: Deployment, request: RebaseRequest) -> _Old:
    reference, onto = Reference.parse(request.ref), Reference.parse(request.onto)
    if reference.path.parent is None:
        raise UsageError(f"{request.ref} is a base model: the reference of an adapter is expected.")
    with deployment.read() as session:
        base = base_rows.get(session, reference.path.base)
        found = link_rows.links(session, reference)
        path = path_of(base, found, with_retracted=True)  # its new parent may exist because of that
        retraction.check([found[-1].revision])
        if path.exact is not None:
            raise exact_link(path.exact)
        summary = browse.summary_of(session, found)
    above = reference.path.parent
    if above.is_base:
        raise UsageError(f"{path.reference} is on the base model {base.name} itself, which has no other revisions.")
    if onto.path != above:
        meant = meant_alone(request.onto, above)
        raise ConflictError(
            f"--onto {request.onto} is not a revision of {above}, the parent given by the path{meant or _ANOTHER}.",
            code="parent_mismatch",
        )
    return _Old(path, summary)


def _drafted(deployment: Deployment, request: RebaseRequest, old: _Old, opened: ExitStack) -> tuple[Draft, Claims]:
    link, summary = old.path.links[-1], old.summary
    message = request.message or f"Rebased from {link.reference}, not trained."
    draft = Draft(
        Reference.parse(link.reference).path,
        Said(request.onto),
        Labels.checked(message, {}, request.tags, {}),
        read_blob(deployment, link.file(ADAPTER_CONFIG)),
        open_source(deployment, link.file(ADAPTER_WEIGHTS), opened),
        source=summary.source,
        derived_from=DerivedFrom(kind="published", reference=link.reference, digest=link.digest, links=(link.digest,)),
        trained_quantised=link.trained_quantised,  # its files were, whatever they are put on
        rebased=True,
    )
    claims = {file.path: FileClaim(path=file.path, size=file.size, digest=file.digest) for file in link.files}
    return draft, Claims(claims)


def _why_not(old: _Old, checkpoint: Checkpoint) -> str | None:
    """Why the parent of a revision can't be changed; None: it can."""
    reference = old.path.reference
    if old.summary.sources:  # the same files elsewhere would stand on no sources, whose retraction takes them down
        return (
            f"{reference} is a combination: combine its sources again over another revision, with `registry combine` "
            "and --over."
        )
    if checkpoint.config.use_dora:
        return (
            f"{reference} is a DoRA, which rescales its target modules to magnitudes that were trained with its "
            "parent's weights: train it again on the new parent."
        )
    if checkpoint.copies:
        module = next(iter(checkpoint.copies))
        return (
            f"{reference} keeps a copy of its parent's weight of {module}, which the new parent may not have: save it "
            "with save_embedding_layers=False, and publish it on the new parent with --parent."
        )
    return None


def _report(deployment: Deployment, old: LoadedPath, candidate: Candidate, opened: ExitStack) -> Rebased:
    new, checkpoint = candidate.lineage, candidate.checkpoint
    shared = _shared(old, new)
    inputs = Inputs(deployment.artifact_blobs, new, opened)
    after = bound_links(inputs, new.links)
    *before, own = bound_links(Inputs(deployment.artifact_blobs, old, opened), old.links[shared:])
    norms = slot_norms(deployment, new.base)
    less = [replace(one, coefficient=-1.0) for one in before]
    moved = delta_statistics([*after, *less], inputs.table, since=shared, norms=norms)
    added = delta_statistics([*after, own], inputs.table, since=len(after))
    return Rebased(
        reference=old.reference,
        parent=old.links[-2].reference,
        onto=new.reference,
        moved=moved,
        own_frobenius=added.frobenius,
        values=tuple(_values(checkpoint, moved)),
    )


def _shared(one: LoadedPath, other: LoadedPath) -> int:
    """How many links two paths begin with alike; the last of ``one`` is not its parent's."""
    count = 0
    for mine, theirs in zip(one.links[:-1], other.links, strict=False):
        if mine.digest != theirs.digest:
            break
        count += 1
    return count


def _values(checkpoint: Checkpoint, moved: DeltaStatistics) -> Iterator[RebasedValue]:
    changed = {one.module for one in moved.modules if one.energy or one.scaled or one.replaced}
    changed |= {one.name for one in moved.others}

    def is_moved(name: str) -> bool:
        return name in changed or name.rpartition(".")[0] in changed

    for name in checkpoint.values:
        yield RebasedValue(name=name, how="replaced", moved=is_moved(name))
    for name in checkpoint.tokens:
        yield RebasedValue(name=name, how="rows replaced", moved=is_moved(name))
    for name in checkpoint.diagonals:
        yield RebasedValue(name=name, how="rescaled", moved=is_moved(name))
    for name, pair in checkpoint.pairs.items():
        if pair.magnitude is not None:
            yield RebasedValue(name=name, how="rescaled", moved=is_moved(name))
