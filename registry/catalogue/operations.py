"""Operations: work that outlives the request that asked for it, and the process that began it.

Whoever runs one holds a lease and renews it; when it ends, another process takes the operation up and does the work
again, which has to be idempotent. Clocks of processes may differ by a small part of a lease.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.team_tables import OperationRecord
from registry.catalogue.uploads import owner_of
from registry.errors import NotFoundError
from registry.reference import Path
from registry.rights import Principal, Rights

LEASE: Final = timedelta(seconds=60)
KEPT: Final = timedelta(days=7)
"""How long the answer of an operation that ended is kept."""
_OPEN: Final = ("pending", "running")


@dataclass(frozen=True)
class OperationRow:
    """An operation. ``request``, ``result`` and ``problem`` are JSON texts of the caller's."""

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
    attempts: int  # how often it was taken up, and not given back
    runner: str | None
    lease_until: datetime | None


def create(session: Session, kind: str, request: str, principal: Principal) -> OperationRow:
    """Note work to do; the same request of the same principal that is not finished yet is given back."""
    owner = owner_of(principal)
    same = select(OperationRecord).where(
        OperationRecord.owner == owner, OperationRecord.kind == kind, OperationRecord.state.in_(_OPEN)
    )
    for row in session.scalars(same.order_by(OperationRecord.created_at)):
        if row.request == request:
            return _value(row)
    now = datetime.now(UTC)
    made = OperationRecord(
        id=uuid.uuid4().hex,
        kind=kind,
        state="pending",
        owner=owner,
        principal=_document(principal),
        request=request,
        stage="",
        done=0,
        total=0,
        created_at=now,
        updated_at=now,
        attempts=0,
    )
    session.add(made)
    session.flush()
    return _value(made)


def get(session: Session, operation_id: str, principal: Principal) -> OperationRow:
    """An operation that the principal asked for; an admin without scopes gets everyone's.

    Raises:
        NotFoundError: there is none of this id, or it is someone else's.
    """
    row = session.get(OperationRecord, operation_id)
    everyones = principal.rights.role == "admin" and principal.rights.unlimited
    if row is None or not (everyones or row.owner == owner_of(principal)):
        raise NotFoundError(f"There is no operation {operation_id}.")
    return _value(row)


def claim(
    session: Session,
    runner: str,
    kinds: Collection[str],
    *,
    operation_id: str | None = None,
    lease: timedelta = LEASE,
) -> OperationRow | None:
    """Take up the oldest operation that nobody works on, or the given one; None: there is none to take up.

    ``kinds`` are those that the runner knows: replicas roll one by one, and a newer one may have noted others.
    """
    now = datetime.now(UTC)
    query = select(OperationRecord).where(_free(now, kinds)).order_by(OperationRecord.created_at).limit(1)
    if operation_id is not None:
        query = query.where(OperationRecord.id == operation_id)
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
    """Ids of operations of these kinds that nobody works on, the oldest first."""
    query = select(OperationRecord.id).where(_free(datetime.now(UTC), kinds)).order_by(OperationRecord.created_at)
    return tuple(session.scalars(query.limit(limit)))


def renew(
    session: Session, operation_id: str, runner: str, *, stage: str, done: int, total: int, lease: timedelta = LEASE
) -> bool:
    """Hold an operation for longer and tell how far it is; False: someone else has it, so the runner stops."""
    values = {"stage": stage, "done": done, "total": total, "lease_until": datetime.now(UTC) + lease}
    return _as_runner(session, operation_id, runner, values)


def finish(session: Session, operation_id: str, runner: str, result: str) -> bool:
    """Note what an operation answered; False: someone else has it."""
    values = {"state": "done", "result": result, "lease_until": None, "request": ""}  # the request may be large
    return _as_runner(session, operation_id, runner, values)


def fail(session: Session, operation_id: str, runner: str, problem: str) -> bool:
    """Note why an operation can't be done; False: someone else has it."""
    values = {"state": "failed", "problem": problem, "lease_until": None, "request": ""}
    return _as_runner(session, operation_id, runner, values)


def forget(session: Session, before: datetime) -> None:
    """Forget operations that ended before then, or were asked for before then and are nobody's work: nobody can."""
    ended = and_(OperationRecord.state.not_in(_OPEN), OperationRecord.updated_at < before)
    left = and_(_is_free(datetime.now(UTC)), OperationRecord.created_at < before)
    session.execute(delete(OperationRecord).where(or_(ended, left)))


def release(session: Session, operation_id: str, runner: str) -> bool:
    """Give an operation back undone, with the attempt that taking it up was; False: someone else has it."""
    values = {"state": "pending", "runner": None, "lease_until": None, "attempts": OperationRecord.attempts - 1}
    return _as_runner(session, operation_id, runner, values)


def pending(session: Session) -> int:
    """How many operations wait for someone or are being worked on."""
    query = select(func.count()).select_from(OperationRecord).where(OperationRecord.state.in_(_OPEN))
    return session.scalar(query) or 0


def _free(now: datetime, kinds: Collection[str]) -> ColumnElement[bool]:
    return and_(_is_free(now), OperationRecord.kind.in_(kinds))


def _is_free(now: datetime) -> ColumnElement[bool]:
    left = and_(OperationRecord.state == "running", OperationRecord.lease_until < now)
    return or_(OperationRecord.state == "pending", left)


def _as_runner(session: Session, operation_id: str, runner: str, values: dict[str, Any]) -> bool:
    mine = update(OperationRecord).where(
        OperationRecord.id == operation_id, OperationRecord.state == "running", OperationRecord.runner == runner
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


def _value(row: OperationRecord) -> OperationRow:
    return OperationRow(
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
    )
