"""Work that takes longer than a request: requested once, done by whichever process has time, looked at by its id."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from registry.api.openapi import problems
from registry.api.parameters import Id
from registry.http.context import context_of
from registry.http.dependencies import RequestRegistry, address_of, service_of
from registry.http.errors import problem_response
from registry.http.payloads import JSON
from registry.http.reads import ReadRoute
from registry.operations.operation import Job
from registry.schemas import Schema
from registry.schemas.jobs import Operation, OperationResult
from registry.schemas.protocol import API
from registry.services.jobs import operation
from registry.services.local import LocalRegistry

router = APIRouter(prefix=API, tags=["operations"], route_class=ReadRoute)

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": Operation, "description": "The work continues; Location is the address of its status."}
}


@router.get("/operations/{id}", responses=problems(404))
def get_operation(registry: RequestRegistry, request: Request, id: Id) -> Operation:  # noqa: A002 - the route's own name of it
    """The progress of an operation, and its result."""
    found = operation(registry.deployment, id)
    return found if found.result is None else found.model_copy(update={"result": _at(found.result, request)})


def answered(request: Request, registry: LocalRegistry, job: Job[Any, Any], asked: Schema) -> Response:
    """Do what is requested; if that takes longer than a request may, answer with the operation that it became."""
    found = service_of(request).runner.answer(registry.deployment, job, asked)
    if isinstance(found, OperationResult):
        return _done(job, _at(found, request))
    if found.result is not None:
        return _done(job, _at(found.result, request))
    if found.problem is not None:
        return problem_response(found.problem.model_copy(update={"request": context_of(request.scope).request}))
    headers = {"Location": f"{API}/operations/{found.id}", "Retry-After": "1"}
    return _json(found, 202, headers)


def _at(result: OperationResult, request: Request) -> OperationResult:
    """A result with the address that clients call this registry by, not with the place that the process knows."""
    here = {"registry": address_of(request)}
    published, base_added = result.published, result.base_added
    return result.model_copy(
        update={
            "published": published and published.model_copy(update=here),
            "base_added": base_added and base_added.model_copy(update=here),
        }
    )


def _done(job: Job[Any, Any], result: OperationResult) -> Response:
    answer = getattr(result, job.result)
    return _json(answer, 201 if job.creates and answer.created else 200)


def _json(answer: Schema, status: int, headers: Mapping[str, str] = NO_HEADERS) -> Response:
    return Response(answer.model_dump_json(), status_code=status, headers=dict(headers), media_type=JSON)
