"""Publishing: what a client wants to add is checked first, then its bytes travel, then it becomes visible."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from registry.api.openapi import problems
from registry.api.operations import ACCEPTED, answered
from registry.http.acting import Acting, service_of
from registry.http.payloads import JsonBody
from registry.schemas import BaseAdded, Published
from registry.services.base_requests import plan_base as check_base
from registry.services.publish import plan_publish as check_publish
from registry.wire import API, BaseCommit, BasePlan, BaseRequest, PublishCommit, PublishPlan, PublishRequest

router = APIRouter(prefix=API, tags=["publish"])


@router.post("/publishes/plan", responses=problems(400, 404, 408, 409, 410))
def plan_publish(registry: Acting, asked: Annotated[PublishRequest, Depends(JsonBody(PublishRequest))]) -> PublishPlan:
    """Check everything but the weights, and tell which bytes are missing."""
    return check_publish(registry.deployment, asked)


@router.post(
    "/publishes",
    status_code=201,
    response_model=Published,
    responses={200: {"model": Published, "description": "It was there already."}, **ACCEPTED}
    | problems(400, 404, 408, 409, 410),
)
def commit_publish(
    registry: Acting, request: Request, asked: Annotated[PublishCommit, Depends(JsonBody(PublishCommit))]
) -> Response:
    """Read back what was uploaded, check it, and publish."""
    return answered(request, registry, "publish", asked)


@router.post("/bases/plan", responses=problems(400, 404, 408, 409))
def plan_base(
    registry: Acting, request: Request, asked: Annotated[BaseRequest, Depends(JsonBody(BaseRequest))]
) -> BasePlan:
    """Check everything but the weights, and tell which bytes are missing."""
    with service_of(request).tables.seat():  # each may take a process of its own, with all of transformers
        return check_base(registry.deployment, asked)


@router.post(
    "/bases",
    status_code=201,
    response_model=BaseAdded,
    responses={200: {"model": BaseAdded, "description": "It was there already."}, **ACCEPTED}
    | problems(400, 404, 408, 409),
)
def commit_base(
    registry: Acting, request: Request, asked: Annotated[BaseCommit, Depends(JsonBody(BaseCommit))]
) -> Response:
    """Read back what was uploaded, check it, and add the base model."""
    return answered(request, registry, "base", asked)
