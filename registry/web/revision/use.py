"""Use it: what is typed to use a revision with each tool, and why one can't."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from fastapi import APIRouter, Response

from registry.engines.checking import kept_refusal
from registry.engines.snippets import Snippet, snippets
from registry.errors import RegistryError
from registry.reference import MAIN
from registry.schemas import ArtifactKind
from registry.web.frame.visit import PageRoute, PageVisit
from registry.web.revision.files import REFUSALS, opened
from registry.web.revision.subject import Subject, subject_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/use/{reference:path}", response_model=None)
def use_page(visit: PageVisit, reference: str) -> Response:
    """A snippet for each tool, for this address and this reference."""
    subject = subject_of(visit, reference)
    made: dict[ArtifactKind, Sequence[str]] = {}
    refusals: dict[ArtifactKind, RegistryError] = {}
    for kind in ("lora", "merged"):
        try:
            with closing(opened(visit, subject.reference, kind)) as handle:
                made[kind] = tuple(handle.artifact.files)
        except REFUSALS as error:
            refusals[kind] = error
    rows: list[Snippet] = []
    for kind, files in [*made.items()][:1]:  # as one adapter, or else merged
        rows = snippets(subject.shown, subject.asked, visit.address, kind, files, is_open=visit.is_open)
    return visit.page(
        "use.html",
        title=f"Use {subject.asked}",
        api=visit.api("/revisions", ref=reference),
        subject=subject,
        part="use",
        rows=[(row, *_judged(subject, row, refusals)) for row in rows],
        refusals=refusals,
        spellings=_spellings(subject),
    )


def _spellings(subject: Subject) -> Iterator[tuple[str, str]]:
    """The ways to name the revision: what may name another one tomorrow, then what always names it."""
    revision = subject.revision
    if MAIN in subject.shown.repo_revisions:
        yield "newest", revision.path
    for tag in revision.tags:
        yield f"@{tag}", f"{revision.path}@{tag}"
    yield f"@{revision.number}, always this one", revision.reference


def _judged(
    subject: Subject, row: Snippet, refusals: Mapping[ArtifactKind, RegistryError]
) -> tuple[str | None, str | None]:
    """Why a tool can't use it, and the engine that nothing is known of yet."""
    if row.needs is not None and row.needs in refusals:
        return str(refusals[row.needs]), None
    answer = next((one for one in subject.shown.engines if one.engine == row.engine), None)
    return (None, row.engine) if answer is None else (kept_refusal(answer), None)
