"""Jobs as lists show them: pages of those that a principal sees, and how many there are of each state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.orm import Session

from registry.catalogue.database.team_tables import IS_ASKED_FOR, JobRecord
from registry.catalogue.store.uploads import owner_of
from registry.catalogue.team.jobs import sees_everyones
from registry.rights import Principal
from registry.schemas.jobs import JobCounts, JobsRequest, JobSummary

_SHOWN: Final[Select[*tuple[Any, ...]]] = select(  # without what may be large: requests and results
    JobRecord.id,
    JobRecord.kind,
    JobRecord.state,
    JobRecord.subject,
    JobRecord.principal,
    JobRecord.stage,
    JobRecord.done,
    JobRecord.total,
    JobRecord.created_at,
    JobRecord.updated_at,
    JobRecord.problem,
)


@dataclass(frozen=True)
class JobPosition:
    """Where a page ends: at this job."""

    created_at: datetime
    id: str


def listing(
    session: Session, principal: Principal, request: JobsRequest, *, after: JobPosition | None, limit: int | None
) -> tuple[JobSummary, ...]:
    """The jobs of a principal, or everyone's for an unscoped admin, newest first.

    Those that nobody asked for are listed where their kind is given.
    """
    everyones = sees_everyones(principal)
    # Of one owner by the index of owners: that of kinds would be walked through the jobs of all others.
    kind = JobRecord.kind if everyones else JobRecord.kind.concat("")
    query = _SHOWN.where(IS_ASKED_FOR if request.kind is None else kind == request.kind)
    if not everyones:
        query = query.where(JobRecord.owner == owner_of(principal))
    if request.state is not None:
        query = query.where(JobRecord.state == request.state)
    if after is not None:
        earlier = JobRecord.created_at < after.created_at
        before = or_(earlier, and_(JobRecord.created_at == after.created_at, JobRecord.id < after.id))
        query = query.where(before, JobRecord.created_at <= after.created_at)  # what an index begins at
    query = query.order_by(JobRecord.created_at.desc(), JobRecord.id.desc())
    return tuple(_summary(row) for row in session.execute(query.limit(limit)))


def counts(session: Session, failed_after: datetime) -> tuple[JobCounts, JobCounts]:
    """How many jobs wait, run, and failed since a time: of those that somebody asked for, and of the others."""
    failed = and_(JobRecord.state == "failed", JobRecord.created_at >= failed_after)
    asked_for = IS_ASKED_FOR.label("asked_for")  # not a condition: by the index of kinds, all of a kind would be read
    query = select(asked_for, JobRecord.state, func.count(), func.min(JobRecord.created_at))
    query = query.where(or_(JobRecord.state.in_(["pending", "running"]), failed)).group_by(asked_for, JobRecord.state)
    found = {(bool(asked), state): (count, oldest) for asked, state, count, oldest in session.execute(query)}
    return _counts(found, asked=True), _counts(found, asked=False)


def _counts(found: Mapping[tuple[bool, str], tuple[int, datetime]], *, asked: bool) -> JobCounts:
    pending, running, failed = (found.get((asked, state), (0, None)) for state in ("pending", "running", "failed"))
    return JobCounts(pending=pending[0], running=running[0], failed=failed[0], oldest_pending_at=pending[1])


def _summary(row: Any) -> JobSummary:
    problem: dict[str, Any] = {} if row.problem is None else json.loads(row.problem)
    return JobSummary(
        id=row.id,
        kind=row.kind,
        state=row.state,
        subject=row.subject,
        actor=row.principal["name"],
        token=row.principal["token"],
        stage=row.stage,
        done=row.done,
        total=row.total,
        created_at=row.created_at,
        updated_at=row.updated_at,
        code=problem.get("code"),
        detail=problem.get("detail"),
    )
