"""The files of a revision as each kind of artifact hands them out, their tensors, and what is typed to use them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Response
from pydantic import Field

from registry.digest import hex_of
from registry.engines.checking import kept_refusal
from registry.engines.snippets import Snippet, snippets
from registry.errors import (
    AccuracyError,
    ConflictError,
    InvalidAdapterError,
    InvalidBaseError,
    NotFoundError,
    RegistryError,
    RetractedError,
    UsageError,
)
from registry.files.header import TensorEntry
from registry.folders.scan import EXACT_WEIGHTS
from registry.http.artifacts import ArtifactHandle, file_answer, listing, look_at, open_artifact
from registry.http.dependencies import service_of
from registry.operations import table
from registry.reference import MAIN, Reference
from registry.schemas import ArtifactKind, Options, Schema
from registry.schemas.requests import ReferenceRequest
from registry.services.artifacts.opened import ask
from registry.web.frame.visit import PageRoute, PageVisit, Visit
from registry.web.revision.subject import Subject, subject_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)

KINDS: Final[Mapping[ArtifactKind, tuple[str, str]]] = {
    "published": ("Published", "The files as they were published, byte for byte."),
    "lora": ("One adapter", "All adapters of the lineage as one, on the base model. Computed while it is read."),
    "merged": ("Merged model", "The base model with the whole lineage merged in. Computed while it is read."),
}
"""The kinds of artifacts: a label, and what each is."""
REFUSALS: Final = AccuracyError, ConflictError, InvalidAdapterError, InvalidBaseError, RetractedError, UsageError
"""Why an existing revision has no such artifact: the page says so, and stays."""


class _Asked(Schema):
    kind: ArtifactKind = "published"


def about(visit: Visit, reference: str) -> dict[str, Any]:
    """What pages about files need to know of a base model, or of a revision, whose head they have.

    ``reference`` is ``PATH@N``: what a page shows stays what its links lead to. Raises `NotFoundError`, `UsageError`.
    """
    if Reference.parse(reference).path.is_base:
        name = visit.ask(table.RESOLVE, ReferenceRequest(ref=reference)).base
        return {"reference": name, "subject": None, "part": None, "frame": "base.html"}
    subject = subject_of(visit, reference)
    return {"reference": subject.reference, "subject": subject, "part": "files", "frame": "subject.html"}


def opened(visit: Visit, reference: str, kind: ArtifactKind) -> ArtifactHandle:
    """An open artifact, of which only headers are read; raises what `ask` and `open_artifact` raise."""
    deployment = visit.registry.deployment
    return open_artifact(service_of(visit.request), deployment, ask(deployment, reference, Options(kind=kind)))


@router.get("/files/{reference:path}", response_model=None)
def files_page(visit: PageVisit, reference: str) -> Response:
    """Files with digests and sizes. Only headers are read, so computed ones have no digest yet."""
    values, kind, deployment = about(visit, reference), visit.asked(_Asked).kind, visit.registry.deployment
    try:
        asked = ask(deployment, values["reference"], Options(kind=kind))
        found = listing(service_of(visit.request), deployment, asked)
        values |= {"files": found, "is_kept": asked.materialised is not None, "refusal": None}
    except REFUSALS as error:
        values |= {"refusal": error}
    title, api = f"Files of {values['reference']}", visit.api("/artifacts", ref=values["reference"], kind=kind)
    return visit.page("files.html", title=title, api=api, asked=reference, kind=kind, kinds=KINDS, **values)


@router.get("/download/{kind}/{rest:path}", response_model=None)
def download(visit: PageVisit, kind: ArtifactKind, rest: str) -> Response:
    """A file, at ``/download/KIND/REFERENCE/-/FILE``, as no adapter is called ``-``; raises `NotFoundError`."""
    reference, found, name = rest.partition("/-/")
    if not found:
        raise NotFoundError(f"No file is named in {rest[:256]!r}: open the page Files, and follow a link there.")
    deployment = visit.registry.deployment
    asked = ask(deployment, reference, Options(kind=kind))
    answer = file_answer(visit.request, deployment, asked, name)
    if (
        name.endswith(".safetensors") and visit.request.method == "GET"
    ):  # as in the Hub views: other files are looked at to browse
        deployment.note_use(asked.path.reference, "fetch")
    return answer


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
        merged_by=next((row.label for row in rows if row.needs == "merged"), None),
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


_PAGE: Final = 100
_NAMES: Final = 12_000  # characters of names in a page: each may have 1024
_Place = tuple[str, TensorEntry]  # in which file


class _TensorsAsked(Schema):
    kind: ArtifactKind = "published"
    file: str | None = None
    tensor: str | None = None
    text: str | None = None
    start: Annotated[int, Field(ge=0)] = 0


@router.get("/tensors/{reference:path}", response_model=None)
def tensors_page(visit: PageVisit, reference: str) -> Response:
    """The tensors of an artifact, or one of them with figures of its values."""
    asked, values = visit.asked(_TensorsAsked), about(visit, reference)
    ref, values = values["reference"], {**values, "asked": asked, "label": KINDS[asked.kind][0], "refusal": None}
    template, title = "tensors.html", f"Tensors of {values['reference']}"
    try:
        handle = opened(visit, ref, asked.kind)
    except REFUSALS as error:
        return visit.page(template, title=title, **{**values, "refusal": error})
    with closing(handle):
        headers = {name: file.header for name, file in handle.artifact.files.items() if asked.file in (None, name)}
        places = [(name, entry) for name, header in headers.items() if header for entry in header.entries.values()]
        if asked.tensor is None:
            differences = EXACT_WEIGHTS in handle.artifact.files
            return visit.page(template, title=title, **values, **_some(places, asked), differences=differences)
        file, entry = next((one for one in places if one[1].name == asked.tensor), (None, None))
        if file is None or entry is None:
            raise NotFoundError(f"{ref} as {asked.kind} has no tensor {asked.tensor[:256]!r}.")
        look = look_at(service_of(visit.request), handle, file, entry)
        address = f"/artifacts/{hex_of(handle.artifact.rendering)}/{quote(file)}"
    options = f"-fL -H 'Range: bytes={entry.start}-{look.stop - 1}' -o tensor.bin"
    line = visit.api(address, options=options, ref=ref, kind=asked.kind) if look.sampled else None
    return visit.page("tensor.html", title=entry.name, **values, file=file, entry=entry, look=look, line=line)


def _some(places: Sequence[_Place], asked: _TensorsAsked) -> dict[str, Any]:
    """Some tensors, of those whose names have a text, and where the next begin."""
    found = [one for one in places if asked.text is None or asked.text in one[1].name]
    shown = found[asked.start : asked.start + _PAGE]
    lengths = itertools.accumulate(len(entry.name) for _, entry in shown)
    shown = shown[: max(1, sum(length <= _NAMES for length in lengths))]
    after = asked.start + len(shown)
    return {
        "places": shown,
        "found": len(found),
        "all": len(places),
        "elements": sum(entry.elements for _, entry in found),
        "size": sum(entry.stop - entry.start for _, entry in found),
        "after": after if after < len(found) else None,
    }
