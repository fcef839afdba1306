"""Routes of the operations: one for each row of the table, as the row describes it; and one of events as they come.

That one answers with server-sent events: what browsers' EventSource reads, and curl prints.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response

from registry.api.artifacts import note_use
from registry.api.jobs import ACCEPTED, answered
from registry.api.openapi import problems
from registry.api.parameters import LIMIT, Cursor, Limit, from_body, from_query, named, with_signature
from registry.http.conditional import with_etag
from registry.http.context import source_of
from registry.http.dependencies import RequestRegistry, address_of, service_of
from registry.http.payloads import position_of
from registry.http.reads import ReadRoute
from registry.http.streams import EventStream
from registry.operations.operation import Item, Job, Listing, Operation
from registry.operations.table import OPERATIONS
from registry.schemas import Identity, Schema
from registry.schemas.protocol import API, EVENT_STREAM, Page, cursor_to
from registry.schemas.requests import MaterialiseRequest, NoRequest
from registry.schemas.team import FollowRequest
from registry.schemas.transfer import Bundle
from registry.services import materialise
from registry.services.following import Follower
from registry.services.local import LocalRegistry
from registry.version import __version__

router = APIRouter(prefix=API, route_class=ReadRoute)
_NOTHING: Final = NoRequest()
_CARRIED: Final = {"POST", "PUT"}  # methods whose request is a body


def _endpoint(operation: Operation[Any, Any]) -> Callable[..., Any]:
    own = [named("registry", RequestRegistry), named("http", Request)]
    if operation.request is not NoRequest:
        carried = operation.method in _CARRIED
        read = from_body(operation.request) if carried else from_query(operation.request, operation.address)
        own.append(named("request", Annotated[operation.request, Depends(read)]))
    if isinstance(operation, Listing):
        own += [named("cursor", Cursor, None), named("limit", Limit, LIMIT)]
        return with_signature(_lister(operation), *own)
    return with_signature(_job(operation) if isinstance(operation, Job) else _doer(operation), *own)


def _doer(operation: Operation[Any, Any]) -> Callable[..., Any]:
    def do(registry: LocalRegistry, http: Request, request: Schema = _NOTHING) -> Any:
        with service_of(http).tables.slot() if operation.takes_process else nullcontext():
            answer = registry.do(operation, request)
        if isinstance(answer, Identity):  # a client knows this registry by the address that it used
            answer = answer.model_copy(update={"url": address_of(http), "service_version": __version__})
        if isinstance(answer, Bundle):  # a client that merges asks for no other plan, and says what it does
            note_use(http, registry.deployment, answer.reference, unless_said=None)
        return with_etag(http, answer) if operation.tagged else answer

    return do


def _lister(listing: Listing[Any, Item]) -> Callable[..., Page[Item]]:
    def page(
        registry: LocalRegistry,
        http: Request,
        request: Schema = _NOTHING,
        cursor: str | None = None,
        limit: int = LIMIT,
    ) -> Page[Item]:
        del http
        listing.right.require(registry.deployment.rights, request)  # before the cursor is read
        found = registry.deployment.page(listing, request, position_of(listing, cursor), limit)
        following = None if found.next is None else cursor_to(found.next)
        return Page(items=found.items, next=following, notices=found.notices)

    return page


def _job(job: Job[Any, Any]) -> Callable[..., Response]:
    def do(registry: LocalRegistry, http: Request, request: Schema) -> Response:
        if isinstance(request, MaterialiseRequest):  # by its number: a tag may move before a replica takes the job up
            job.right.require(registry.deployment.rights, request)
            request = materialise.pinned(registry.deployment, request)
        return answered(http, registry, job, request)

    return do


def _responses(operation: Operation[Any, Any]) -> dict[int | str, dict[str, Any]]:
    carried = operation.method in _CARRIED
    asked = operation.request is not NoRequest and "{" not in operation.address
    statuses = (*operation.refusals, *((400,) if asked else ()), *((408,) if carried else ()))
    found = problems(*statuses, *((304,) if operation.tagged else ()))
    if isinstance(operation, Job):
        found = ACCEPTED | found
        if operation.creates:
            found[200] = {"model": operation.answer, "description": "It already existed."}
    return found


for _operation in OPERATIONS:
    router.add_api_route(
        _operation.address,
        _endpoint(_operation),
        methods=[_operation.method],
        name=_operation.name,
        tags=[_operation.group],
        description=_operation.about,
        status_code=201 if isinstance(_operation, Job) and _operation.creates else _operation.status,
        response_model=Page[_operation.item] if isinstance(_operation, Listing) else _operation.answer,  # type: ignore[name-defined]
        responses=_responses(_operation),
    )


Followed = Annotated[FollowRequest, Depends(from_query(FollowRequest))]


@router.get(
    "/events/stream",
    tags=["browse"],
    response_class=Response,
    responses={200: {"description": "The events.", "content": {EVENT_STREAM: {}}}, **problems(400, 404)},
)
def follow_events(registry: RequestRegistry, request: Request, asked: Followed) -> Response:
    """Events as they come, oldest first; the id of each is the cursor that leads on from it."""
    last = request.headers.get("last-event-id")
    if last:  # a client that comes back, by the address that it came by first
        asked = asked.model_copy(update={"since": last, "last": 0})
    service, principal = service_of(request), registry.deployment.principal
    return EventStream(
        service.streams,
        Follower(registry.deployment, asked, service.streams.settled),
        who=principal.token or source_of(request.scope) or "",
        check=partial(service.access.principal, request),
        once=asked.once,
    )
