"""What an operator's machines ask: whether the process is there, whether it can work, and what it did."""

from __future__ import annotations

import logging
from typing import Literal, cast

from fastapi import APIRouter, Request, Response

from registry.api.openapi import problems
from registry.errors import UnavailableError
from registry.http.dependencies import service_of
from registry.http.readiness import Readiness
from registry.http.request.metrics import MEDIA_TYPE
from registry.schemas import Schema

router = APIRouter(tags=["health"])
log = logging.getLogger(__name__)


class Alive(Schema):
    """The process is running."""

    alive: Literal[True] = True


class Ready(Schema):
    """The process is ready to answer requests."""

    ready: Literal[True] = True
    database: str
    store: str


@router.get("/healthz")
async def healthz() -> Alive:
    """Whether the process is there; asks nobody else, and waits for no thread that others hold."""
    return Alive()


@router.get("/readyz", responses={503: problems()[503]})
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


@router.get("/metrics", response_class=Response, responses={200: {"content": {MEDIA_TYPE: {}}}})
def metrics(request: Request) -> Response:
    """Metrics of this process, or of all workers of the service, as Prometheus reads them."""
    return Response(service_of(request).metrics.text(), media_type=MEDIA_TYPE)
