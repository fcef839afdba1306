"""Running a registry: who may do what, which tags are protected, what takes room and can go, and how it is."""

from __future__ import annotations

import secrets
from typing import Final, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from registry.catalogue.team.tokens import MAX_LIFETIME, MAX_NAME
from registry.errors import NotFoundError
from registry.http.cursors import cursor_to, position_of
from registry.operations import table
from registry.schemas import Schema, requests
from registry.schemas.usage import UsageRequest
from registry.services.upkeep.identity import create_token
from registry.web.frame.fields import request_of
from registry.web.frame.visit import FormVisit, PageRoute, PageVisit, PostedForm
from registry.web.upkeep.jobs import start

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_BASES: Final = 30  # on a page
_DAY: Final = 86400


class _Page(Schema):
    cursor: str | None = None


class _Storage(_Page, UsageRequest):
    pass


class _Token(Schema):
    """A new token: its scopes with spaces between them. ``form`` is another one on each page."""

    name: str = Field(max_length=MAX_NAME)
    role: Literal["reader", "writer", "admin"]
    scopes: str = ""
    days: int | None = Field(default=None, ge=1, le=MAX_LIFETIME // _DAY)
    form: str = Field(max_length=64)


@router.get("/admin", response_model=None)
def tokens(visit: PageVisit) -> Response:
    """All tokens, newest first; raises `NotAllowedError`."""
    found = visit.listed(table.TOKENS, requests.NoRequest(), position_of(table.TOKENS, visit.asked(_Page).cursor))
    return visit.page(
        "admin.html",
        title="Tokens",
        api=visit.api("/tokens"),
        tokens=found.items,
        form=secrets.token_urlsafe(16),
        older=found.next and visit.links("/admin", cursor=cursor_to(found.next)),
    )


@router.post("/admin/tokens", response_model=None)
def make_token(visit: FormVisit, form: PostedForm) -> Response:
    """Make a token: its secret is in this response only; raises `ConflictError` where the form is sent again."""
    given = form.read(_Token)
    expires_in = None if given.days is None else given.days * _DAY
    request = request_of(
        requests.TokenRequest,
        given.model_dump(include={"name", "role"}) | {"scopes": given.scopes.split(), "expires_in": expires_in},
    )
    table.CREATE_TOKEN.right.require(visit.registry.deployment.rights, request)
    made = create_token(visit.registry.deployment, request, form=given.form)
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
    visit.principal.rights.require("admin", "protect tags")
    found = visit.listed(
        table.BASES, requests.BasesRequest(), position_of(table.BASES, visit.asked(_Page).cursor), _BASES
    )
    bases = [
        (one.name, visit.ask(table.PROTECTED_TAGS, requests.ProtectedTagsRequest(base=one.name))) for one in found.items
    ]
    return visit.page(
        "admin_tags.html",
        title="Protected tags",
        bases=bases,
        older=found.next and visit.links("/admin/tags", cursor=cursor_to(found.next)),
    )


@router.post("/admin/tags", response_model=None)
def protect(visit: FormVisit, form: PostedForm) -> Response:
    """Protect tags of a base model, or end that."""
    request = form.read(requests.ProtectRequest)
    try:
        visit.ask(table.PROTECT_TAG, request)
    except NotFoundError:
        if not request.remove:  # otherwise the form was sent twice
            raise
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
    return start(visit, table.GC, form.read(requests.GcRequest))


@router.post("/admin/check", response_model=None)
def check(visit: FormVisit, form: PostedForm) -> Response:
    """Check that what was published is stored."""
    return start(visit, table.FSCK, form.read(requests.FsckRequest))


@router.get("/health", response_model=None)
def health(visit: PageVisit) -> Response:
    """Replicas, jobs, storage and checks; raises `NotAllowedError`."""
    found = visit.ask(table.HEALTH, requests.NoRequest())
    return visit.page("health.html", title="Health", api=visit.api("/health"), health=found)
