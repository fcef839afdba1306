"""The revision that several pages are about: they share its head, with its lineage and the links to each other."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import UsageError
from registry.operations import table
from registry.reference import Reference
from registry.schemas import RevisionSummary, Shown
from registry.schemas.requests import ReferenceRequest
from registry.web.frame.visit import Visit


@dataclass(frozen=True)
class Subject:
    """A revision, as it was asked for.

    Args:
        asked: the reference in the address: ``llama/support@prod`` stays what it is in links.
        shown: everything about it.
        may_write: whether the visitor may change what is said about it.
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


def subject_of(visit: Visit, reference: str) -> Subject:
    """The revision that a reference names.

    Raises:
        NotFoundError: there is none that the visitor sees.
        UsageError: it names a base model, or is no reference.
    """
    path = Reference.parse(reference).path
    if path.is_base:
        raise UsageError(f"{reference} is a base model, which has no such page: open the page of an adapter below it.")
    shown = visit.ask(table.SHOW, ReferenceRequest(ref=reference))
    return Subject(reference, shown, visit.may("writer", str(path)))
