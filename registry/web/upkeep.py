"""Running a registry: what was done, jobs, tokens, protected tags, what takes room and can go, and how it is."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Final, get_args

from fastapi import APIRouter, Path, Response
from pydantic import Field

from registry.catalogue.team import jobs as rows
from registry.catalogue.team.tokens import MAX_LIFETIME, MAX_NAME
from registry.errors import NotFoundError, RegistryError, UsageError
from registry.http.errors import problem as told
from registry.http.payloads import position_of
from registry.operations import table
from registry.rights import Role
from registry.schemas import Schema, requests
from registry.schemas.jobs import JobsRequest, OperationKind, OperationState
from registry.schemas.protocol import cursor_to
from registry.schemas.usage import UsageRequest
from registry.services.jobs import operation_of
from registry.services.upkeep.health import create_token
from registry.web.frame.forms import REFUSED, request_of
from registry.web.frame.visit import FormVisit, PageRoute, PageVisit, PostedForm, Visit

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_Id = Annotated[str, Path(max_length=64, pattern="^[A-Za-z0-9_-]+$")]


class _Asked(JobsRequest):
    cursor: str | None = None


@router.get("/jobs", response_model=None)
def jobs(visit: PageVisit) -> Response:
    """Own jobs, or everyone's for an admin without scopes, newest first."""
    asked = visit.asked(_Asked)
    request = JobsRequest(state=asked.state, kind=asked.kind)
    found = visit.listed(table.LIST_JOBS, request, position_of(table.LIST_JOBS, asked.cursor))
    given = request.model_dump()
    return visit.page(
        "jobs.html",
        title="Jobs",
        api=visit.api("/operations", **given),
        asked=asked,
        states=get_args(OperationState),
        kinds=get_args(OperationKind),
        jobs=found.items,
        older=found.next and visit.links("/jobs", **given, cursor=cursor_to(found.next)),
    )


@router.get("/jobs/{job_id}", response_model=None)
def job(visit: PageVisit, job_id: _Id) -> Response:
    """A job, and its result; raises `NotFoundError`, also for someone else's."""
    with visit.registry.deployment.read() as session:
        row = rows.get(session, job_id, visit.principal)
    found = operation_of(row)
    api = visit.api(f"/operations/{found.id}")
    return visit.page("job.html", title=f"Job {found.kind}", api=api, job=found, row=row)


_BASES: Final = 30  # on a page
_DAY: Final = 86400


class _Page(Schema):
    cursor: str | None = None


class _Storage(_Page, UsageRequest):
    pass


class _Token(Schema):
    """A new token: its scopes with spaces between them. ``form`` is another one on each page."""

    name: str = Field(max_length=MAX_NAME)
    role: Role
    scopes: str = ""
    days: int | None = Field(default=None, ge=1, le=MAX_LIFETIME // _DAY)
    form: str = Field(max_length=64)


@router.get("/admin", response_model=None)
def tokens(visit: PageVisit) -> Response:
    """All tokens, newest first; raises `NotAllowedError`."""
    return _tokens(visit, visit.asked(_Page).cursor)


def _tokens(
    visit: Visit, cursor: str | None, problem: RegistryError | None = None, sent: Sequence[tuple[str, str]] = ()
) -> Response:
    found = visit.listed(table.TOKENS, requests.NoRequest(), position_of(table.TOKENS, cursor))
    return visit.page(
        "admin.html",
        title="Tokens",
        api=visit.api("/tokens"),
        status=200 if problem is None else told(problem).status,
        tokens=found.items,
        form=secrets.token_urlsafe(16),
        problem=problem,
        sent=dict(sent),
        older=found.next and visit.links("/admin", cursor=cursor_to(found.next)),
    )


@router.post("/admin/tokens", response_model=None)
def make_token(visit: FormVisit, form: PostedForm) -> Response:
    """Make a token: its secret is in this response only; what can't be made is said on the page, above the form."""
    try:
        given = form.read(_Token)
        expires_in = None if given.days is None else given.days * _DAY
        request = request_of(
            requests.TokenRequest,
            given.model_dump(include={"name", "role"}) | {"scopes": given.scopes.split(), "expires_in": expires_in},
        )
        table.CREATE_TOKEN.right.require(visit.registry.deployment.rights, request)
        made = create_token(visit.registry.deployment, request, form=given.form)
    except REFUSED as problem:
        return _tokens(visit, None, problem, form.fields)
    response = visit.page("token.html", title="New token", made=made)
    response.headers["Cache-Control"] = "no-store"
    return response


@router.post("/admin/revoke", response_model=None)
def revoke(visit: FormVisit, form: PostedForm) -> Response:
    """Revoke a token."""
    visit.ask(table.REVOKE_TOKEN, form.read(requests.RevokeRequest))
    return visit.go(visit.links("/admin"))


@router.get("/admin/tags", response_model=None)
def tags(visit: PageVisit) -> Response:
    """The protected tags of each base model; raises `NotAllowedError`."""
    return _tags(visit, visit.asked(_Page).cursor)


def _tags(
    visit: Visit, cursor: str | None, problem: RegistryError | None = None, sent: Sequence[tuple[str, str]] = ()
) -> Response:
    visit.principal.rights.require("admin", "protect tags")
    found = visit.listed(table.BASES, requests.BasesRequest(), position_of(table.BASES, cursor), _BASES)
    bases = [
        (one.name, visit.ask(table.PROTECTED_TAGS, requests.ProtectedTagsRequest(base=one.name))) for one in found.items
    ]
    return visit.page(
        "admin_tags.html",
        title="Protected tags",
        status=200 if problem is None else told(problem).status,
        bases=bases,
        problem=problem,
        sent=dict(sent),
        older=found.next and visit.links("/admin/tags", cursor=cursor_to(found.next)),
    )


@router.post("/admin/tags", response_model=None)
def protect(visit: FormVisit, form: PostedForm) -> Response:
    """Protect tags of a base model, or end that."""
    twice = ("remove", "1") in form.fields  # of what is removed already, the form was sent twice
    try:
        visit.ask(table.PROTECT_TAG, form.read(requests.ProtectRequest))
    except NotFoundError:
        if not twice:
            raise
    except UsageError as problem:
        return _tags(visit, None, problem, form.fields)
    return visit.go(visit.links("/admin/tags"))


@router.get("/admin/storage", response_model=None)
def storage(visit: PageVisit) -> Response:
    """What can be collected and checked; of one base model, where its bytes are. Raises `NotAllowedError`."""
    table.GC.right.require(visit.registry.deployment.rights, requests.GcRequest())
    asked = visit.asked(_Storage)
    usage = visit.ask(table.DU, UsageRequest(path=asked.path)) if asked.path else None
    every = requests.BasesRequest(figures=True)
    found = visit.listed(table.BASES, every, position_of(table.BASES, asked.cursor), _BASES)
    return visit.page(
        "admin_storage.html",
        title="Storage",
        api=visit.api("/usage", path=asked.path),
        bases=found.items,
        usage=usage,
        largest=sorted(usage.adapters, key=lambda one: -one.own)[:50] if usage else (),
        older=found.next and visit.links("/admin/storage", cursor=cursor_to(found.next)),
    )


@router.post("/admin/collect", response_model=None)
def collect(visit: FormVisit, form: PostedForm) -> Response:
    """Collect what nothing needs, or list it."""
    return visit.start(table.GC, form.read(requests.GcRequest))


@router.post("/admin/check", response_model=None)
def check(visit: FormVisit, form: PostedForm) -> Response:
    """Check that what was published is stored."""
    return visit.start(table.FSCK, form.read(requests.FsckRequest))


@router.get("/health", response_model=None)
def health(visit: PageVisit) -> Response:
    """Replicas, jobs, storage and checks; raises `NotAllowedError`."""
    found = visit.ask(table.HEALTH, requests.NoRequest())
    return visit.page("health.html", title="Health", api=visit.api("/health"), health=found)
