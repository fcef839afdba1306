"""The files of a revision or a base model, as what each kind of artifact hands out, and their download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Response

from registry.errors import (
    AccuracyError,
    ConflictError,
    InvalidAdapterError,
    InvalidBaseError,
    NotFoundError,
    RetractedError,
    UsageError,
)
from registry.http.artifacts import ArtifactHandle, file_answer, listing, open_artifact
from registry.http.dependencies import service_of
from registry.operations import table
from registry.reference import Reference
from registry.schemas import ArtifactKind, Options, Schema
from registry.schemas.requests import ReferenceRequest
from registry.services.artifacts.opened import ask
from registry.web.frame.visit import PageRoute, PageVisit, Visit
from registry.web.revision.subject import subject_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)
KINDS: Final[Mapping[ArtifactKind, tuple[str, str]]] = {
    "published": ("Published", "The files as they were published, byte for byte."),
    "lora": ("One adapter", "All adapters of the lineage as one, on the base model. Computed while it is read."),
    "merged": ("Merged model", "The base model with the whole lineage merged in. Computed while it is read."),
}
"""The kinds of artifacts: a label, and what each is."""
REFUSALS: Final = AccuracyError, ConflictError, InvalidAdapterError, InvalidBaseError, RetractedError, UsageError
"""Why a revision that is there has no such artifact: the page says so, and stays."""


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
