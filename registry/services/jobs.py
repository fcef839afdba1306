"""Jobs: requests that outlive their HTTP request, and the runner of a replica that performs them.

The runner claims jobs without a live lease, runs them, and releases them on shutdown. The lease of a running job is
renewed whether or not it makes progress. If it can't be renewed, another replica claims the job, and this one stops at
its next progress report.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.team import jobs as rows
from registry.catalogue.team import tokens
from registry.catalogue.team.jobs import LEASE, JobRow
from registry.errors import CODES, NotAllowedError, NotFoundError, RegistryError, UnavailableError
from registry.operations.operation import Job
from registry.operations.table import JOBS
from registry.progress import SILENT, Progress
from registry.rights import Principal
from registry.schemas import Schema
from registry.schemas.jobs import Operation, OperationKind, OperationResult, OperationState
from registry.schemas.protocol import Problem
from registry.schemas.requests import MaterialiseRequest
from registry.schemas.tags import MEASURED_CODES
from registry.schemas.transfer import PublishCommit
from registry.services.deployment import Deployment
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
    """Bytes that a request has to read back; None: unknown in advance, or other work dominates."""
    if isinstance(request, PublishCommit) and not set(request.request.strict) & set(MEASURED_CODES):
        return sum(claim.size for claim in request.request.files)
    return None  # making a base model's target table takes seconds, a whole merged model minutes


def perform(deployment: Deployment, job: Job[Any, Any], request: Schema, progress: Progress) -> OperationResult:
    """Run a job's request; idempotent, also after a partial run."""
    return OperationResult(**{job.result: deployment.do(job, request, progress)})


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
    field appears only if it is used.
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
    """The default error mapping of jobs, used if the API does not supply its own."""
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


ATTEMPTS: Final = 8
"""Retries back off by 2, 4, 8... seconds, which outlasts a store or database outage of four minutes."""
_PASSING: Final = frozenset({"unavailable", "busy"})
_TICK: Final = 1.0  # seconds between progress writes
_POLL: Final = 2.0  # seconds between polls for unclaimed jobs

_LAST: Final = frozenset({"notice"})
"""Kinds of jobs that no request started: all others run first."""
_REST: Final = 3.0
"""Nobody waits for a job that no request started: it rests this many times as long as it ran, at most for a poll, which
leaves the processor to requests under load."""

log = logging.getLogger(__name__)


class _HandOn(Exception):  # noqa: N818 - not an error: another replica continues the job
    """Stops this replica's work on a job, which is then released."""


@dataclass
class _Work:
    """A job that this replica runs; receives its progress."""

    row: JobRow
    stage: str = ""
    done: int = 0
    total: int = 0
    stopped: bool = False
    ended: bool = False
    noting: threading.Lock = field(default_factory=threading.Lock)  # held while its row is written
    renewed: float = field(default_factory=time.monotonic)
    noted: tuple[str, int, int] = ("", 0, 0)

    def begin(self, what: str, total: int) -> None:
        self._go_on()
        self.stage, self.done, self.total = what, 0, total

    def advance(self, amount: int) -> None:
        self._go_on()
        self.done += amount

    def _go_on(self) -> None:
        if self.stopped:
            raise _HandOn


class Runner:
    """The thread pool of one process that runs jobs.

    Args:
        deployment: unrestricted; each job runs with the rights of the principal that submitted it.
        threads: how many jobs run at the same time.
        describe: maps an error to the problem document that is stored with the job.
        lease: after how long without renewal a job may be claimed by another runner.
        poll: seconds between polls for unclaimed jobs.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        threads: int = 2,
        describe: Describe = plain_problem,
        lease: timedelta = LEASE,
        poll: float = _POLL,
    ) -> None:
        self._deployment = deployment
        self._describe = describe
        self._lease = lease
        self._poll = poll
        self._name = secrets.token_hex(8)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="operation")
        self._threads = threads
        self._lock = threading.Lock()
        self._works: dict[str, _Work] = {}
        self._left: set[str] = set()  # ids of jobs that this version can't read
        self._rests: list[threading.Timer] = []
        self._free = threading.Semaphore(max(1, threads - 1))  # for what waits
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="operations", daemon=True)

    @property
    def running(self) -> int:
        """How many jobs it runs now."""
        return len(self._works)

    def start(self) -> None:
        """Start polling for unclaimed jobs."""
        self._keeper.start()

    def close(self) -> None:
        """Stop, and release the running jobs so that another replica can continue them."""
        self._ending.set()
        with self._lock:
            for work in self._works.values():
                work.stopped = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        for rest in self._rests:  # who rests looks for a job afterwards, in a database that is closed next
            rest.cancel()
            rest.join()
        if self._keeper.ident is not None:
            self._keeper.join()

    def answer(
        self, deployment: Deployment, job: Job[Any, Any], request: Schema, seconds: float = 2.0
    ) -> OperationResult | Operation:
        """Run a request: its result if it is small, else the job, after waiting for it at most ``seconds``.

        Raises:
            RegistryError: what a small request raises; the error of a job is in its problem.
        """
        require(deployment, job, request)
        size = bytes_to_read(request)
        if size is not None and size <= AT_ONCE:
            return perform(deployment, job, request, SILENT)
        submitted = submit(deployment, job, request)
        return self.run_until(deployment, submitted.id, seconds)

    def run_until(self, deployment: Deployment, operation_id: str, seconds: float) -> Operation:
        """Start a job unless it is claimed already, and return its state after ``seconds`` at most."""
        if not self._ending.is_set():
            wait([self._submit(operation_id)], timeout=seconds)
        return operation(deployment, operation_id)

    def _submit(self, operation_id: str) -> Future[bool]:
        return self._pool.submit(self._run_one, operation_id)

    def _run_one(self, operation_id: str) -> bool:
        """Claim a job and run it; False: it was not run, as it is claimed, unreadable here, or this runner closes."""
        if self._ending.is_set() or operation_id in self._left:
            return False
        row = self._deployment.change(
            lambda session: rows.claim(session, self._name, KINDS, operation_id=operation_id, lease=self._lease)
        )
        if row is None:
            return False
        work = _Work(row)
        with self._lock:
            ending = self._ending.is_set()  # checked again: `close` may have stopped the registered works already
            self._works[row.id] = work
        try:
            if ending:
                self._end(work, lambda: self._give_back(work))
                return False
            self._do(work)
        finally:
            with self._lock:
                del self._works[row.id]
        return True

    def _do(self, work: _Work) -> None:
        row = work.row
        try:
            _check_attempts(row)
            request = request_of(row)
            result = perform(acting_for(self._deployment, row.principal), job_of(row), request, work)
        except _HandOn:
            self._end(work, lambda: self._give_back(work))
        except NewerOperationError as error:
            log.warning("operation %s is left to another replica: %s", row.id, error)
            self._left.add(row.id)
            self._end(work, lambda: self._give_back(work))
        except RegistryError as error:
            self._failed(work, error)
        except Exception:
            log.exception("operation %s failed with an unexpected error", row.id)
            bug = UnavailableError(
                f"The operation {row.id} failed with an unexpected error; the log of the service has the details.",
                code="unexpected",
            )
            self._failed(work, bug)
        else:
            self._end(work, lambda: self._finish(work, result))

    def _failed(self, work: _Work, error: RegistryError) -> None:
        """Record a permanent error; after a transient one, schedule a retry."""
        row = work.row
        if isinstance(error, UnavailableError) and error.code in _PASSING and row.attempts < ATTEMPTS:
            log.warning("operation %s is retried: %s", row.id, error)
            self._end(work, lambda: self._put_off(work))
        else:
            self._end(work, lambda: self._fail(work, error))

    def _fail(self, work: _Work, error: RegistryError) -> bool:
        text, row = written(self._describe(error)), work.row

        def note(session: Session) -> bool:
            held = rows.fail(session, row.id, self._name, text)
            if held and isinstance(error, NotAllowedError):
                events.record_denial(session, row.kind, f"operation {row.id}", row.principal, error)
            return held

        return self._deployment.change(note)

    def _end(self, work: _Work, note: Callable[[], bool]) -> None:
        """Record how a job ended. If that fails, its lease expires and another replica runs it again."""
        try:
            with work.noting:
                work.ended = True
                noted = note()
            if not noted:
                log.warning("operation %s was taken over by another process", work.row.id)
        except RegistryError as error:
            log.warning("operation %s ended, but its result could not be recorded: %s", work.row.id, error)

    def _finish(self, work: _Work, result: OperationResult) -> bool:
        text = written(result)
        return self._deployment.change(lambda session: rows.finish(session, work.row.id, self._name, text))

    def _put_off(self, work: _Work) -> bool:
        """Back off: set a short lease that is not renewed, so that no runner claims the job before it expires."""
        return self._deployment.change(
            lambda session: rows.renew(
                session,
                work.row.id,
                self._name,
                stage=work.stage,
                done=work.done,
                total=work.total,
                lease=timedelta(seconds=2.0**work.row.attempts),
            )
        )

    def _give_back(self, work: _Work) -> bool:
        return self._deployment.change(lambda session: rows.release(session, work.row.id, self._name))

    def _keep(self) -> None:
        """Renew leases, write progress, and poll for unclaimed jobs, until the runner closes."""
        looked = time.monotonic() - self._poll
        while not self._ending.wait(min(_TICK, self._poll)):
            with self._lock:
                works = list(self._works.values())
            for work in works:
                with work.noting:  # a renewal after the end would replace the short lease of a retry
                    if not work.ended:
                        self._renew(work)
            if time.monotonic() - looked >= self._poll and len(works) < self._threads:
                looked = time.monotonic()
                for operation_id in self._waiting():
                    self._follow(operation_id)

    def _renew(self, work: _Work) -> None:
        told = (work.stage, work.done, work.total)
        due = time.monotonic() - work.renewed > self._lease.total_seconds() / 4
        if told == work.noted and not due:
            return
        try:
            acting_for(self._deployment, work.row.principal)
            kept = self._deployment.change(
                lambda session: rows.renew(
                    session, work.row.id, self._name, stage=told[0], done=told[1], total=told[2], lease=self._lease
                )
            )
        except RegistryError as error:
            log.warning("the lease of operation %s could not be renewed: %s", work.row.id, error)
            # bad_token: the principal's token is no longer valid; the next runner to claim the job records that.
            kept = error.code != "bad_token" and time.monotonic() - work.renewed < self._lease.total_seconds()
        else:
            work.noted, work.renewed = told, time.monotonic()
        if not kept:
            work.stopped = True

    def _follow(self, operation_id: str) -> None:
        """Run a job that waits, and then the next one, unless all but one of the threads do so: one is for requests."""
        if self._free.acquire(blocking=False):
            try:
                self._pool.submit(self._run_waiting, operation_id)
            except RuntimeError:  # the pool was closed meanwhile
                self._free.release()

    def _run_waiting(self, operation_id: str) -> None:
        began, ran = time.monotonic(), False
        try:
            ran = self._run_one(operation_id)
        finally:
            if ran:
                self._rest(min(_REST * (time.monotonic() - began), self._poll))
            else:
                self._free.release()

    def _rest(self, seconds: float) -> None:
        rest = threading.Timer(seconds, self._go_on)
        rest.daemon = True
        with self._lock:
            self._rests = [one for one in self._rests if one.is_alive()]
            self._rests.append(rest)
            rest.start()

    def _go_on(self) -> None:
        """After the rest: let the next one run, not only by the next poll."""
        self._free.release()
        for following in [] if self._ending.is_set() else self._waiting()[:1]:
            self._follow(following)

    def _waiting(self) -> list[str]:
        """Unclaimed jobs, those that a request started first, at most as many as run at once."""
        try:
            with self._deployment.read_everything() as session:
                limit = self._threads + len(self._left)
                waiting = rows.waiting(session, KINDS.keys() - _LAST, limit=limit)
                waiting += rows.waiting(session, _LAST, limit=limit - len(waiting))
        except RegistryError as error:
            log.warning("waiting operations could not be read: %s", error)
            return []
        return [found for found in waiting if found not in self._left][: self._threads]


def _check_attempts(row: JobRow) -> None:
    if row.attempts > ATTEMPTS:
        raise UnavailableError(
            f"The operation {row.id} was started {row.attempts - 1} times and never finished: the log of the service "
            "may say why. Request it again.",
            code="unexpected",
        )
