"""All routes of the API; of them here what answers, its description, and what an operator's machines ask."""

from __future__ import annotations

import logging
from typing import Final, Literal, cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from registry.api import artifacts, jobs, operations, uploads
from registry.api.openapi import describe, problems
from registry.errors import UnavailableError
from registry.http.dependencies import RequestRegistry, service_of
from registry.http.health import Readiness
from registry.http.metrics import MEDIA_TYPE
from registry.http.reads import ReadRoute
from registry.schemas import Schema
from registry.schemas.protocol import API, PROTOCOL
from registry.version import __version__

health = APIRouter(tags=["health"])
log = logging.getLogger(__name__)


class Alive(Schema):
    """The process is running."""

    alive: Literal[True] = True


class Ready(Schema):
    """The process is ready to answer requests."""

    ready: Literal[True] = True
    database: str
    store: str


@health.get("/healthz")
async def healthz() -> Alive:
    """Whether the process is there; asks nobody else, and waits for no thread that others hold."""
    return Alive()


@health.get("/readyz", responses={503: problems()[503]})
async def readyz(request: Request) -> Ready:
    """Whether the process can work: its database with a schema that fits, and its store."""
    wrong = await cast("Readiness", request.app.state.readiness).failures()
    if wrong:
        # Not the sentences: they name places, and nobody who asks here has shown a token. The log has them.
        for what, error in wrong.items():
            log.warning("not ready: %s: %s", what, error)
        names = " and ".join(f"the {what} ({error.code})" for what, error in wrong.items())
        raise UnavailableError(f"The service is not ready, because of {names}; its log has details.")
    return Ready(database="ok", store="ok")


@health.get("/metrics", response_class=Response, responses={200: {"content": {MEDIA_TYPE: {}}}})
def metrics(request: Request) -> Response:
    """Metrics of this process, or of all workers of the service, as Prometheus reads them."""
    return Response(service_of(request).metrics.text(), media_type=MEDIA_TYPE)


router = APIRouter(prefix=API, tags=["browse"], route_class=ReadRoute)


class About(Schema):
    """What answers here."""

    name: str
    version: str
    protocol: int


@router.get("", responses=problems())
def about(registry: RequestRegistry) -> About:
    """What answers here, in which version."""
    del registry  # a parameter so that only those who may use the registry get an answer
    return About(name="adapter-registry", version=__version__, protocol=PROTOCOL)


@router.get("/openapi.json", responses=problems())
def describe_api(registry: RequestRegistry, request: Request) -> JSONResponse:
    """This description."""
    del registry
    state = request.app.state
    if not hasattr(state, "description"):
        state.description = describe(request.app)
    return JSONResponse(state.description)


ROUTERS: Final = (health, router, *(module.router for module in (operations, uploads, jobs, artifacts)))
