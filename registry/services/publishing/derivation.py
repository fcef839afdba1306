"""Notices about where an adapter's files come from: rebased, or composed for another place than they are published."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.orm import Session

from registry.catalogue.tree import revisions
from registry.reference import Path as TreePath
from registry.schemas import DerivedFrom
from registry.schemas.kinds import KINDS
from registry.services.publishing.parents import REBASED, Parent


def named(session: Session, told: DerivedFrom | None) -> DerivedFrom | None:
    """The same with the reference that the revision has here, where the receipt is of an export without names."""
    if told is None or told.reference is not None or told.digest is None:
        return told
    return told.model_copy(update={"reference": revisions.anywhere(session, told.digest)})


def derivation_notices(session: Session, path: TreePath, told: DerivedFrom | None, parent: Parent) -> Iterator[str]:
    """Notices for what was rebased, and for an adapter whose receipt says what it copies or was composed for."""
    if told is None or told.digest is None or KINDS[told.kind].is_model:
        return
    if parent.known_by == REBASED:
        yield f"Rebased from {told.reference}, not trained: its files are those of {told.reference}, on another parent."
        return
    composed = KINDS[told.kind].is_composed
    own = revisions.with_digest(session, path, told.digest)
    if own is not None:
        form = "truncated" if told.rank is not None else "composed" if composed else "unchanged"
        yield (
            f"The receipt in its folder says that this is a {form} copy of {own}, a revision of the same "
            "adapter, without any further training."
        )
    if composed and told.since_digest != parent.revision_digest:
        stands = "the base model" if told.since_digest is None else "another revision"
        yield (
            f"The receipt in its folder says that this was composed for use on {stands}, but it is published on "
            f"{parent.reference}: the links between the two count twice, or are missing."
        )
