"""What is noticed about the weights of a publish: told in its answer, or why it is refused, where that is asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from registry.catalogue.changes.publish import NewRevision
from registry.catalogue.tree import notices, revisions
from registry.catalogue.tree.notices import Noticed, same_files
from registry.errors import InvalidAdapterError
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.reference import Reference
from registry.schemas.around import Notice, NoticeCode, notice
from registry.services.deployment import Deployment
from registry.services.publishing.draft import Draft
from registry.tensors.analysis.directions import Directions

NAMED: Final = 3
"""So many modules are named in a notice about more."""


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
    if known is None or {files[ADAPTER_CONFIG], files[ADAPTER_WEIGHTS]} <= set(known):
        same = deployment.ask(lambda reader: same_files(reader, new.path, new.digest, files))
        found += () if same is None else (same,)
    return replace(new, noticed=found)


def of_directions(found: Directions) -> tuple[Noticed, ...]:
    """The notices about the directions of an adapter's deltas."""
    each = (of_modules("zero_delta", found.zero, found.pairs), of_modules("one_direction", found.one, found.pairs))
    return tuple(one for one in each if one is not None)


def of_modules(code: NoticeCode, names: Sequence[str], of: int) -> Noticed | None:
    """One notice about all of some modules; None where there are none."""
    if not names:
        return None
    return Noticed(notice(code, modules=len(names), of=of, names=tuple(names[:NAMED])))


def kept_notices(deployment: Deployment, reference: str) -> tuple[Notice, ...]:
    """The notices of a revision that is there."""
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
