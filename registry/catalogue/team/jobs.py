"""Jobs as rows: work that outlives its request and its process (``operations`` in the API), claimed, ended and listed.

A runner holds a lease and renews it; when it expires, another process takes the job over and repeats the work, which
has to be idempotent. Clock skew has to be small against the lease.

Jobs as lists show them: pages of those that a principal sees, and the number in each state.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import Select, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.team_tables import IS_ASKED_FOR, JobRecord
from registry.catalogue.store.uploads import owner_of
from registry.errors import NotFoundError
from registry.reference import Path
from registry.rights import Principal, Rights
from registry.schemas.jobs import JobCounts, JobsRequest, JobSummary

LEASE: Final = timedelta(seconds=60)
KEPT: Final = timedelta(days=7)
"""Retention of the results of finished jobs."""
_OPEN: Final = ("pending", "running")


@dataclass(frozen=True)
class JobRow:
    """A job. ``request``, ``result`` and ``problem`` are JSON texts of the caller's."""

    id: str
    kind: str
    state: str  # pending, running, done, failed
    owner: str
    principal: Principal
    request: str
    stage: str
    done: int
    total: int
    result: str | None
    problem: str | None
    created_at: datetime
    updated_at: datetime
    attempts: int  # claims that were not released
    runner: str | None
    lease_until: datetime | None
    subject: str | None


def create(session: Session, kind: str, request: str, principal: Principal, *, subject: str | None = None) -> JobRow:
    """Enqueue a job; returns the unfinished one of the same request and principal, if any."""
    owner = owner_of(principal)
    same = select(JobRecord).where(JobRecord.owner == owner, JobRecord.kind == kind, JobRecord.state.in_(_OPEN))
    for row in session.scalars(same.order_by(JobRecord.created_at)):
        if row.request == request:
            return _value(row)
    return enqueue(session, kind, request, principal, subject=subject)


def enqueue(session: Session, kind: str, request: str, principal: Principal, *, subject: str | None = None) -> JobRow:
    """Enqueue a job, whatever is queued already; ``subject`` is the reference, path or name that it is about."""
    now = datetime.now(UTC)
    made = JobRecord(
        id=uuid.uuid4().hex,
        kind=kind,
        state="pending",
        owner=owner_of(principal),
        principal=_document(principal),
        request=request,
        stage="",
        done=0,
        total=0,
        created_at=now,
        updated_at=now,
        attempts=0,
        subject=subject,
    )
    session.add(made)
    session.flush()
    return _value(made)


def get(session: Session, operation_id: str, principal: Principal) -> JobRow:
    """A job of the principal; an unscoped admin gets everyone's.

    Raises:
        NotFoundError: no job has this id, or it is someone else's.
    """
    row = session.get(JobRecord, operation_id)
    if row is None or not (sees_everyones(principal) or row.owner == owner_of(principal)):
        raise NotFoundError(f"There is no operation {operation_id}.")
    return _value(row)


def sees_everyones(principal: Principal) -> bool:
    """Whether the jobs of others exist for a principal: of an unscoped admin."""
    return principal.rights.role == "admin" and principal.rights.unlimited


def claim(
    session: Session,
    runner: str,
    kinds: Collection[str],
    *,
    operation_id: str | None = None,
    lease: timedelta = LEASE,
) -> JobRow | None:
    """Claim the oldest free job, or the given one; None: none is free.

    ``kinds`` are those that the runner knows: during a rolling upgrade a newer replica may enqueue others.
    """
    now = datetime.now(UTC)
    query = select(JobRecord).where(_free(now, kinds)).order_by(JobRecord.created_at).limit(1)
    if operation_id is not None:
        query = query.where(JobRecord.id == operation_id)
    row = session.scalar(query.with_for_update(skip_locked=True))
    if row is None:
        return None
    row.state = "running"
    row.runner = runner
    row.lease_until = now + lease
    row.updated_at = now
    row.attempts += 1
    session.flush()
    return _value(row)


def waiting(session: Session, kinds: Collection[str], *, limit: int) -> tuple[str, ...]:
    """Ids of free jobs of these kinds, oldest first."""
    query = select(JobRecord.id).where(_free(datetime.now(UTC), kinds)).order_by(JobRecord.created_at)
    return tuple(session.scalars(query.limit(limit)))


def renew(
    session: Session, operation_id: str, runner: str, *, stage: str, done: int, total: int, lease: timedelta = LEASE
) -> bool:
    """Renew the lease and report progress; False: the lease was lost, so the runner stops."""
    values = {"stage": stage, "done": done, "total": total, "lease_until": datetime.now(UTC) + lease}
    return _as_runner(session, operation_id, runner, values)


def finish(session: Session, operation_id: str, runner: str, result: str) -> bool:
    """Store the result of a job; False: the lease was lost."""
    values = {"state": "done", "result": result, "lease_until": None, "request": ""}  # the request may be large
    return _as_runner(session, operation_id, runner, values)


def fail(session: Session, operation_id: str, runner: str, problem: str) -> bool:
    """Store the error of a job; False: the lease was lost."""
    values = {"state": "failed", "problem": problem, "lease_until": None, "request": ""}
    return _as_runner(session, operation_id, runner, values)


def forget(session: Session, before: datetime) -> None:
    """Delete jobs that finished before then, or were enqueued before then and are free: no runner can do them."""
    ended = and_(JobRecord.state.not_in(_OPEN), JobRecord.updated_at < before)
    left = and_(_is_free(datetime.now(UTC)), JobRecord.created_at < before)
    session.execute(delete(JobRecord).where(or_(ended, left)))


def release(session: Session, operation_id: str, runner: str) -> bool:
    """Give a job back undone, without counting the attempt; False: the lease was lost."""
    values = {"state": "pending", "runner": None, "lease_until": None, "attempts": JobRecord.attempts - 1}
    return _as_runner(session, operation_id, runner, values)


def unfinished(session: Session) -> tuple[JobRow, ...]:
    """All pending and running jobs, oldest first."""
    query = select(JobRecord).where(JobRecord.state.in_(_OPEN)).order_by(JobRecord.created_at)
    return tuple(_value(row) for row in session.scalars(query))


def pending(session: Session) -> int:
    """How many jobs are pending or running."""
    query = select(func.count()).select_from(JobRecord).where(JobRecord.state.in_(_OPEN))
    return session.scalar(query) or 0


def _free(now: datetime, kinds: Collection[str]) -> ColumnElement[bool]:
    return and_(_is_free(now), JobRecord.kind.in_(kinds))


def _is_free(now: datetime) -> ColumnElement[bool]:
    left = and_(JobRecord.state == "running", JobRecord.lease_until < now)
    return or_(JobRecord.state == "pending", left)


def _as_runner(session: Session, operation_id: str, runner: str, values: dict[str, Any]) -> bool:
    mine = update(JobRecord).where(
        JobRecord.id == operation_id, JobRecord.state == "running", JobRecord.runner == runner
    )
    done: Any = session.execute(mine.values(updated_at=datetime.now(UTC), **values))
    return cast(int, done.rowcount) == 1


def _document(principal: Principal) -> dict[str, Any]:
    return {
        "name": principal.name,
        "role": principal.rights.role,
        "scopes": [str(scope) for scope in principal.rights.scopes],
        "token": principal.token,
        "source": principal.source,
    }


def _principal(document: dict[str, Any]) -> Principal:
    rights = Rights(document["role"], tuple(Path.parse(scope) for scope in document["scopes"]))
    return Principal(document["name"], rights, document["token"], document["source"])


def _value(row: JobRecord) -> JobRow:
    return JobRow(
        id=row.id,
        kind=row.kind,
        state=row.state,
        owner=row.owner,
        principal=_principal(row.principal),
        request=row.request,
        stage=row.stage,
        done=row.done,
        total=row.total,
        result=row.result,
        problem=row.problem,
        created_at=row.created_at,
        updated_at=row.updated_at,
        attempts=row.attempts,
        runner=row.runner,
        lease_until=row.lease_until,
        subject=row.subject,
    )


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

    Those that nobody requested are listed if their kind is given.
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
    """How many jobs wait, run, and failed since a time: of those that somebody requested, and of the others."""
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
