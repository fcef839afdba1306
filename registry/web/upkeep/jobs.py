"""Jobs: work that outlives its request, and what came of it."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Path, Response

from registry.catalogue.team import jobs as rows
from registry.http.cursors import cursor_to, position_of
from registry.http.dependencies import service_of
from registry.operations import table
from registry.operations.operation import Job
from registry.schemas import Schema
from registry.schemas.jobs import JobsRequest, OperationKind, OperationState
from registry.services.jobs.table import operation_of, submit
from registry.web.frame.visit import PageRoute, PageVisit, Visit

router = APIRouter(include_in_schema=False, route_class=PageRoute)
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
