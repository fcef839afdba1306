"""What writers have done about a revision: it is restored, renamed, put on another parent, measured, or stored.

Each form stands beside the command that does the same. What the service does as a job is a job here too, with its page;
what the API answers when it is done is answered then.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from registry.operations import table
from registry.schemas import Schema
from registry.schemas.labels import RenameRequest
from registry.schemas.publishing import RebaseRequest
from registry.schemas.requests import MaterialiseRequest, NoRequest, StatisticsRequest, UndeleteRequest
from registry.web.frame.forms import REFUSED
from registry.web.frame.visit import FormVisit, PageRoute, PostedForm
from registry.web.revision.edit import edit_page, writable

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_DAY = 86400


class _Rename(Schema):
    name: str = Field(max_length=512)


class _Rebase(Schema):
    onto: str = Field(max_length=512)
    message: str = Field(default="", max_length=65536)


class _Materialise(Schema):
    kind: Literal["lora", "merged"]
    days: Annotated[int, Field(ge=1, le=36500)] = 30


@router.post("/undelete/{reference:path}", response_model=None)
def undelete(visit: FormVisit, form: PostedForm, reference: str) -> Response:
    """Restore a deleted revision; raises `NotFoundError`, `ConflictError` (``parent_deleted``)."""
    form.read(NoRequest)
    restored = visit.ask(table.UNDELETE, UndeleteRequest(ref=reference))
    return visit.go(visit.links.ref(restored.reference))


@router.post("/rename/{reference:path}", response_model=None)
def rename(visit: FormVisit, form: PostedForm, reference: str) -> Response:
    """Give the adapter, with everything under it, another last name."""
    subject = writable(visit, reference)
    try:
        given = form.read(_Rename)
        renamed = visit.ask(table.RENAME, RenameRequest(path=subject.revision.path, name=given.name.strip()))
    except REFUSED as problem:
        return edit_page(visit, reference, problem, form.fields)
    return visit.go(visit.links.ref(renamed.renamed_to))


@router.post("/rebase/{reference:path}", response_model=None)
def rebase(visit: FormVisit, form: PostedForm, reference: str) -> Response:
    """Put the revision on another one of its parent, as a new revision with the same files."""
    subject = writable(visit, reference)
    try:
        given = form.read(_Rebase)
        request = RebaseRequest(ref=subject.reference, onto=given.onto.strip(), message=given.message)
        made = visit.ask(table.REBASE, request)
    except REFUSED as problem:
        return edit_page(visit, reference, problem, form.fields)
    if made.revision is None:
        raise AssertionError("only a dry run makes none")
    return visit.go(visit.links.ref(made.revision.reference))


@router.post("/measure/{reference:path}", response_model=None)
def measure(visit: FormVisit, form: PostedForm, reference: str) -> Response:
    """Compute the figures of its delta and keep them."""
    form.read(NoRequest)
    subject = writable(visit, reference)
    visit.ask(table.STATS, StatisticsRequest(ref=subject.reference))
    return visit.go(f"{visit.links.ref(subject.reference)}#changed")


@router.post("/materialise/{reference:path}", response_model=None)
def materialise(visit: FormVisit, form: PostedForm, reference: str) -> Response:
    """Have an artifact computed and stored, as a job."""
    subject = writable(visit, reference)
    try:
        given = form.read(_Materialise)
        request = MaterialiseRequest(ref=subject.reference, kind=given.kind, expires_in=given.days * _DAY)
        return visit.start(table.MATERIALISE, request)
    except REFUSED as problem:
        return edit_page(visit, reference, problem, form.fields)
