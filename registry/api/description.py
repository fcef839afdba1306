"""The description of the API, as a route of it: it asks for a token like the others."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry.api.openapi import describe, problems
from registry.http.acting import Acting
from registry.wire import API

router = APIRouter(prefix=API, tags=["browse"])


@router.get("/openapi.json", responses=problems())
def describe_api(registry: Acting, request: Request) -> JSONResponse:
    """This description."""
    del registry
    state = request.app.state
    if not hasattr(state, "description"):
        state.description = describe(request.app)
    return JSONResponse(state.description)
