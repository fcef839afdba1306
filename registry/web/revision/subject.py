"""The revision that a page is about, as it was requested.

Of one that was deleted, the error page says who did that, and lets writers restore it: `subject_of` leaves it with the
request. Who may not see the adapter is told what they are told of one that never was.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import NotFoundError, UsageError
from registry.figures import moment
from registry.operations import table
from registry.reference import Reference
from registry.schemas import DeletedRevision, RevisionSummary, Shown
from registry.schemas.requests import ReferenceRequest
from registry.services.deployment import deletion_of
from registry.web.frame.visit import Visit


@dataclass(frozen=True)
class Subject:
    """A revision, as it was requested.

    Args:
        asked: the reference in the address: ``llama/support@prod`` stays what it is in links.
        shown: everything about it.
        may_write: whether the visitor may change its labels.
    """

    asked: str
    shown: Shown
    may_write: bool

    @property
    def revision(self) -> RevisionSummary:
        """The revision."""
        if self.shown.revision is None:
            raise AssertionError("only a base model has none")
        return self.shown.revision

    @property
    def reference(self) -> str:
        """``PATH@N``."""
        return self.revision.reference

    @property
    def pinned(self) -> str:
        """``PATH@sha256:...``: what stays the same whatever is published or tagged."""
        return f"{self.revision.path}@{self.revision.digest}"

    @property
    def newer_parent(self) -> str | None:
        """The newest revision of its parent, if that is newer than the one that it is on, and may be seen."""
        parent = self.shown.lineage[-2]
        if parent.number is None or parent.newest is None or parent.newest <= parent.number:
            return None
        return f"{Reference.parse(parent.reference).path}@{parent.newest}"


def subject_of(visit: Visit, reference: str) -> Subject:
    """The revision that a reference names.

    Raises:
        NotFoundError: the visitor sees none; of a deleted one says who deleted it.
        UsageError: it names a base model, or is no reference.
    """
    parsed = Reference.parse(reference)
    path = parsed.path
    if path.is_base:
        raise UsageError(f"{reference} is a base model, which has no such page: open the page of an adapter below it.")
    try:
        shown = visit.ask(table.SHOW, ReferenceRequest(ref=reference))
    except NotFoundError:
        gone = deletion_of(visit.registry.deployment, parsed)
        if gone is None:
            raise
        visit.request.state.deleted = gone
        raise NotFoundError(_told(gone)) from None
    return Subject(reference, shown, visit.may("writer", str(path)))


def _told(gone: DeletedRevision) -> str:
    when = "" if gone.deleted_at is None else f" on {moment(gone.deleted_at)} UTC"
    by = "" if gone.deleted_by is None else f" by {gone.deleted_by}"
    if gone.until is None:
        return f"{gone.reference} was deleted{when}{by}, and can't be restored any more: publish it again."
    return f"{gone.reference} was deleted{when}{by}. It can be restored until {moment(gone.until)} UTC."
