"""What is noticed about the weights of a publish: told in its answer, or why it is refused, where that is asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace

from registry.catalogue.changes import notices
from registry.catalogue.changes.notices import Noticed, same_files
from registry.catalogue.changes.publish import NewRevision
from registry.catalogue.tree import revisions
from registry.errors import InvalidAdapterError, UsageError
from registry.files.source import ByteSource
from registry.folders.scan import form_of
from registry.reference import Reference
from registry.schemas.around import MEASURED_CODES, Notice
from registry.services.artifacts.inputs import path_table
from registry.services.bases.norms import slot_norms
from registry.services.deployment import Deployment
from registry.services.fidelity import new_link_survival
from registry.services.notices import LinkAtHand, look, of_fidelity, of_modules
from registry.services.publishing.candidates import Candidate
from registry.services.publishing.draft import Draft
from registry.services.publishing.parent_links import parent_links
from registry.services.publishing.parents import REBASED
from registry.tensors.analysis.directions import Directions
from registry.tensors.analysis.sketch import sketch
from registry.tensors.analysis.statistics import delta_statistics
from registry.tensors.path.programs import BoundLink


def with_notices(
    deployment: Deployment, new: NewRevision, known: Collection[str] | None, directions: Directions | None = None
) -> NewRevision:
    """The revision to publish with what is noticed about it.

    Args:
        deployment: where it is to be published.
        new: the revision.
        known: those of its digests that are stored already; None: not looked up yet.
        directions: of its factors, where these were read.
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
    """The notices about a revision that is there."""
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
    """Refuse a publish that is strict about notices which take computing: they are looked for, before it is stored.

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
        if "low_fidelity" in codes and (kept := new_link_survival(deployment, lineage, links)) is not None:
            found += of_fidelity(kept)
        refuse_noticed(draft, [one.notice for one in found])
