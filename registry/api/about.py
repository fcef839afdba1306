"""What answers here, and the description of the API: both ask for a token like the other routes."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry.api.openapi import describe, problems
from registry.http.dependencies import RequestRegistry
from registry.http.reads import ReadRoute
from registry.schemas import Schema
from registry.schemas.protocol import API, PROTOCOL
from registry.version import __version__

router = APIRouter(prefix=API, tags=["browse"], route_class=ReadRoute)


class About(Schema):
    """What answers here."""

    name: str
    version: str
    protocol: int


@router.get("", responses=problems())
def about(registry: RequestRegistry) -> About:
    """What answers here, in which version."""
    del registry  # asked for, so that only those who may use the registry are told
    return About(name="adapter-registry", version=__version__, protocol=PROTOCOL)


@router.get("/openapi.json", responses=problems())
def describe_api(registry: RequestRegistry, request: Request) -> JSONResponse:
    """This description."""
    del registry
    state = request.app.state
    if not hasattr(state, "description"):
        state.description = describe(request.app)
    return JSONResponse(state.description)
