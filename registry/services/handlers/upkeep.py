"""Handlers of collecting and checking, and of what the service does.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from datetime import datetime

from registry.catalogue.team import job_lists
from registry.catalogue.team.job_lists import JobPosition
from registry.operations import table
from registry.operations.operation import Part, part
from registry.progress import Progress
from registry.schemas import Checked, Collected
from registry.schemas.jobs import Health, JobsRequest, JobSummary
from registry.schemas.requests import FsckRequest, GcRequest, NoRequest
from registry.services.deployment import Deployment
from registry.services.handlers.handling import does, lists, one_more


@does(table.GC)
def _gc(deployment: Deployment, request: GcRequest, progress: Progress) -> Collected:
    from registry.services.upkeep.collect import collect

    return collect(deployment, dry_run=request.dry_run, progress=progress, grace=deployment.gc_grace)


@does(table.FSCK)
def _fsck(deployment: Deployment, request: FsckRequest, progress: Progress) -> Checked:
    from registry.services.upkeep.check import check

    return check(deployment, deep=request.deep, progress=progress)


@does(table.HEALTH)
def _health(deployment: Deployment, _request: NoRequest, _progress: Progress) -> Health:
    from registry.services.upkeep.health import health

    return health(deployment)


@lists(table.LIST_JOBS)
def _jobs(
    deployment: Deployment, request: JobsRequest, after: tuple[datetime, str] | None, limit: int | None
) -> Part[JobSummary]:
    last = None if after is None else JobPosition(*after)
    with deployment.read() as session:
        found = job_lists.listing(session, deployment.principal, request, after=last, limit=one_more(limit))
    return part(found, limit, lambda one: [one.created_at.isoformat(), one.id])
