"""Running a registry: what was done, jobs, tokens, protected tags, what takes room and can go, and how it is."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, Final, get_args

from fastapi import APIRouter, Path, Response
from pydantic import Field

from registry.catalogue.team import jobs as rows
from registry.catalogue.team.tokens import MAX_LIFETIME, MAX_NAME
from registry.errors import NotFoundError
from registry.figures import moment
from registry.http.dependencies import service_of
from registry.http.payloads import position_of
from registry.operations import table
from registry.operations.arguments import start_of
from registry.operations.operation import Job
from registry.rights import Role
from registry.schemas import Event, Schema, requests
from registry.schemas.jobs import JobsRequest, OperationKind, OperationState
from registry.schemas.protocol import cursor_to
from registry.schemas.team import EVENT_KINDS, EventsRequest
from registry.schemas.usage import UsageRequest
from registry.services.jobs import operation_of, submit
from registry.services.upkeep.health import create_token
from registry.web.frame.forms import request_of
from registry.web.frame.rendering import as_text
from registry.web.frame.visit import FormVisit, PageRoute, PageVisit, PostedForm, Visit

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_Text = Annotated[str | None, Field(max_length=512)]
VERBS: Final = {
    "annotate": "annotated", "base add": "added the base model", "base also-known-as": "changed other repo ids of",
    "base delete": "deleted the base model",
    "base delete undo": "restored the base model", "base rename": "renamed the base model",
    "base retable": "rebuilt the target table of", "card": "edited the card of", "delete": "deleted",
    "delete undo": "restored", "fsck": "checked the store", "gc": "collected what nothing needs",
    "materialise": "materialised", "materialise drop": "dropped a materialisation of",
    "notice": "noticed something about", "protect tag": "protected tags of", "publish": "published", "purge": "purged",
    "refused": "was refused", "rename": "renamed",
    "retention clear": "removed the retention rule of", "retention set": "set the retention rule of",
    "retract": "retracted", "retract undo": "undid the retraction of",
    "tag": "moved a tag of", "token create": "made the token", "token revoke": "revoked the token",
    "unprotect tag": "ended the protection of tags of", "untag": "took a tag away from",
}  # fmt: skip
"""What somebody did, before what it was done to."""


class _ActivityAsked(Schema):
    path: _Text = None
    actor: _Text = None
    kind: _Text = None
    after: _Text = None
    cursor: _Text = None


@router.get("/activity", response_model=None)
def activity(visit: PageVisit) -> Response:
    """Events, newest first, that meet the conditions."""
    asked = visit.asked(_ActivityAsked)
    start = None if asked.after is None else start_of(asked.after)
    request = EventsRequest(path=asked.path, actor=asked.actor, kind=asked.kind, after=start)
    found = visit.listed(table.EVENTS, request, position_of(table.EVENTS, asked.cursor))
    given = asked.model_dump(exclude={"cursor"})
    return visit.page(
        "activity.html",
        title="Activity",
        api=visit.api("/events", **request.model_dump(mode="json")),
        asked=asked,
        filtered=any(given.values()),
        kinds=EVENT_KINDS,
        events=[(same[0], [said for one in same for said in _said(one)]) for same in _together(found.items)],
        verbs=VERBS,
        older=found.next and visit.links("/activity", **given, cursor=cursor_to(found.next)),
    )


def _together(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Events of a minute that follow each other, by the same person, of the same kind, about the same thing."""
    for _, same in groupby(events, lambda one: (one.action, one.subject, one.actor, one.token, moment(one.at))):
        yield list(same)


def _said(event: Event) -> Iterator[tuple[str, str]]:
    """What an event records besides what was done: a name and a value each."""
    detail = dict(event.detail)
    if "old" in detail:
        name = next((str(detail.pop(key)) for key in ("tag", "metric", "annotation") if key in detail), "")
        changed = [detail.pop("old"), detail.pop("new", None) or detail.pop("message", None)]
        values = [as_text(one).removeprefix(event.subject if event.action.endswith("tag") else "") for one in changed]
        yield name or "text", values[1] if changed[0] is None else " → ".join(values)
    if isinstance(seconds := detail.get("expires_in"), int):
        detail["expires_in"] = f"{seconds / 86400:.3g} days"
    yield from ((name.replace("_", " "), as_text(value)) for name, value in sorted(detail.items()) if value)


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


def start(visit: Visit, asked: Job[Any, Any], request: Schema) -> Response:
    """Have a job done by the service, and go to its page; one that is under way already is not begun again."""
    deployment = visit.registry.deployment
    found = service_of(visit.request).runner.run_until(deployment, submit(deployment, asked, request).id, 0.5)
    return visit.go(visit.links(f"/jobs/{found.id}"))


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
    """Make a token: its secret is in this response only; raises `ConflictError` if the form is sent again."""
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
