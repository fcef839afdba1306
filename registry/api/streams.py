"""Events as they come, as server-sent events: what browsers' EventSource reads, and curl prints."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from registry.api.openapi import problems
from registry.api.parameters import from_query
from registry.http.context import source_of
from registry.http.dependencies import RequestRegistry, service_of
from registry.http.reads import ReadRoute
from registry.http.streams import EventStream
from registry.schemas.protocol import API, EVENT_STREAM
from registry.schemas.team import FollowRequest
from registry.services.following import Follower

router = APIRouter(prefix=API, tags=["browse"], route_class=ReadRoute)


@router.get(
    "/events/stream",
    response_class=Response,
    responses={
        200: {"description": "The events.", "content": {EVENT_STREAM: {}}},
        **problems(400, 404),
    },
)
def follow_events(
    registry: RequestRegistry, request: Request, asked: Annotated[FollowRequest, Depends(from_query(FollowRequest))]
) -> Response:
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
