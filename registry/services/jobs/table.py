"""Jobs: submitting, reading and performing the requests that outlive their HTTP request (commit, gc, fsck, ...)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from registry.catalogue.team import jobs as rows
from registry.catalogue.team import tokens
from registry.catalogue.team.jobs import JobRow
from registry.errors import CODES, NotAllowedError, NotFoundError, RegistryError, UnavailableError
from registry.operations.operation import Job
from registry.operations.table import JOBS
from registry.progress import Progress
from registry.rights import Principal
from registry.schemas import Schema
from registry.schemas.jobs import Operation, OperationKind, OperationResult, OperationState
from registry.schemas.protocol import Problem
from registry.schemas.requests import MaterialiseRequest
from registry.schemas.tags import MEASURED_CODES
from registry.schemas.transfer import PublishCommit
from registry.services.deployment import Deployment
from registry.services.handlers.table import handler_of
from registry.version import __version__

T = TypeVar("T", bound=Schema)
KINDS: Final[Mapping[OperationKind, Job[Any, Any]]] = {job.kind: job for job in JOBS}
AT_ONCE: Final = 32 << 20
"""Up to so many bytes to read back and hash, a request runs inline instead of as a job: less than a second's work."""


class NewerOperationError(UnavailableError):
    """A newer version wrote this job or its result in a form that this version can't read."""


def submit(deployment: Deployment, job: Job[Any, Any], request: Schema) -> Operation:
    """Create a job; an unfinished one with the same request and principal is returned instead.

    Raises:
        What `require` raises.
    """
    require(deployment, job, request)
    text, subject = written(request), subject_of(job, request)
    return operation_of(
        deployment.change(lambda session: rows.create(session, job.kind, text, deployment.principal, subject=subject))
    )


def operation(deployment: Deployment, operation_id: str) -> Operation:
    """The state of a job; raises `NotFoundError`, also for another principal's job, and `NewerOperationError`."""
    with deployment.read() as session:
        return operation_of(rows.get(session, operation_id, deployment.principal))


def require(deployment: Deployment, job: Job[Any, Any], request: Schema) -> None:
    """Check that the principal may submit this, before a job is created; raises `NotAllowedError`, `UsageError`.

    A materialisation also raises what `registry.services.materialise.check` raises.
    """
    job.right.require(deployment.rights, request)
    if isinstance(request, MaterialiseRequest):
        from registry.services import materialise

        materialise.check(deployment, request)


def subject_of(job: Job[Any, Any], request: Schema) -> str | None:
    """The reference, path or name that a request is about; None: about the whole registry."""
    return str(attrgetter(job.right.field)(request)) if job.right.field else None


def bytes_to_read(request: Schema) -> int | None:
    """Bytes that a request has to read back; None where unknown in advance, or where other work dominates."""
    if isinstance(request, PublishCommit) and not set(request.request.strict) & set(MEASURED_CODES):
        return sum(claim.size for claim in request.request.files)
    return None  # making a base model's target table takes seconds, a whole merged model minutes


def perform(deployment: Deployment, job: Job[Any, Any], request: Schema, progress: Progress) -> OperationResult:
    """Run a job's request; idempotent, also after a partial run."""
    job.right.require(deployment.rights, request)
    return OperationResult(**{job.result: handler_of(job)(deployment, request, progress)})


def job_of(row: JobRow) -> Job[Any, Any]:
    """The row's entry in `KINDS`; raises `NewerOperationError`."""
    return KINDS[_kind(row)]


def request_of(row: JobRow) -> Schema:
    """The request of a job; raises `NewerOperationError`."""
    schema: type[Schema] = job_of(row).request
    return _read(row, schema, row.request)


def written(document: Schema) -> str:
    """A request or a result as a row stores it.

    Defaults are left out: during a rolling upgrade older replicas read these rows and reject unknown fields, so a new
    field appears only where it is used.
    """
    return document.model_dump_json(exclude_defaults=True)


def acting_for(deployment: Deployment, principal: Principal) -> Deployment:
    """The deployment with the principal that submitted a job.

    Raises:
        NotAllowedError: ``bad_token``, the principal's token was revoked or has expired since.
    """
    if principal.token is not None:
        gone = NotAllowedError(
            f"The token {principal.token} was revoked or has expired since this was requested.", code="bad_token"
        )
        try:
            with deployment.read_everything() as session:
                token = tokens.get(session, principal.token)
        except NotFoundError:
            raise gone from None
        if token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= datetime.now(UTC)):
            raise gone
    return replace(deployment, principal=principal)


def plain_problem(error: RegistryError) -> Problem:
    """The default error mapping of jobs, used where the API does not supply its own."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == RegistryError.__module__)
    return Problem(
        type=f"urn:adapter-registry:error:{error.code}",
        title=CODES[error.code],
        status=500,
        detail=str(error),
        code=error.code,
        kind=kind,
    )


Describe = Callable[[RegistryError], Problem]


def operation_of(row: JobRow) -> Operation:
    """A job's row as the API's schema; raises `NewerOperationError`."""
    return Operation(
        id=row.id,
        kind=_kind(row),
        state=_state(row),
        stage=row.stage,
        done=row.done,
        total=row.total,
        created_at=row.created_at,
        updated_at=row.updated_at,
        result=None if row.result is None else _read(row, OperationResult, row.result),
        problem=None if row.problem is None else _read(row, Problem, row.problem),
    )


def _read(row: JobRow, schema: type[T], text: str) -> T:
    try:
        return schema.model_validate_json(text)
    except ValidationError:
        raise _newer(row, "was recorded in a form") from None


def _kind(row: JobRow) -> OperationKind:
    for kind in KINDS:
        if kind == row.kind:
            return kind
    raise _newer(row, f"is of the kind {row.kind!r},")


def _newer(row: JobRow, what: str) -> NewerOperationError:
    return NewerOperationError(
        f"The operation {row.id} {what} which this replica of the service (version {__version__}) does not support: "
        "retry, so that a newer replica answers, and upgrade this one."
    )


def _state(row: JobRow) -> OperationState:
    states: tuple[OperationState, ...] = ("pending", "running", "done", "failed")
    return next(state for state in states if state == row.state)
