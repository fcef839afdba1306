"""Waits for jobs, which a service continues after its response, whichever replica runs them."""

from __future__ import annotations

import time
from typing import Final

import httpx

from registry.client.http.errors import error_of
from registry.client.http.transport import Transport
from registry.errors import UnavailableError
from registry.operations.operation import A, Job, R
from registry.progress import Progress
from registry.schemas.jobs import Operation, OperationResult

_FIRST: Final = 0.05
_MOST: Final = 2.0
_PART: Final = 0.1  # of the time waited so far: short jobs are noticed at once, and long ones polled seldom
STALLED: Final = 900.0
"""Seconds without progress after which a client stops waiting."""


def result_of(transport: Transport, answer: httpx.Response, job: Job[R, A], progress: Progress) -> A:
    """The answer to a job's request: in the response itself, or that of the operation it names."""
    if answer.status_code != httpx.codes.ACCEPTED:
        return transport.read(answer, job.answer)
    result = getattr(wait_for(transport, answer, progress), job.result)
    if isinstance(result, job.answer):
        return result
    raise UnavailableError(f"{transport.url} answers with the result of another operation; run the command again.")


def wait_for(transport: Transport, answer: httpx.Response, progress: Progress) -> OperationResult:
    """The result of the operation that a 202 response names; raises the error that it ended with."""
    operation = transport.read(answer, Operation)
    told = _Told(progress)
    seen, begun = _state(operation), time.monotonic()
    since = begun
    while True:
        told.show(operation)
        if operation.state == "failed":
            if operation.problem is None:
                raise UnavailableError(f"Operation {operation.id} at {transport.url} failed and does not say why.")
            raise error_of(operation.problem)
        if operation.state == "done":
            if operation.result is None:
                raise UnavailableError(f"Operation {operation.id} at {transport.url} is done but has no result.")
            return operation.result
        if _state(operation) != seen:
            seen, since = _state(operation), time.monotonic()
        elif time.monotonic() - since > STALLED:
            raise UnavailableError(
                f"Operation {operation.id} at {transport.url} has made no progress for {STALLED / 60:.0f} minutes; it "
                "continues there when it can, and running the same command again picks up its result.",
                code="too_slow",
            )
        time.sleep(min(_MOST, max(_FIRST, _PART * (time.monotonic() - begun))))
        operation = transport.get(f"/operations/{operation.id}", Operation)


def _state(operation: Operation) -> tuple[object, ...]:
    return operation.state, operation.stage, operation.done, operation.updated_at


class _Told:
    """Reports an operation's progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage: tuple[str, int] | None = None
        self._done = 0

    def show(self, operation: Operation) -> None:
        if operation.total <= 0:
            return
        stage = (operation.stage, operation.total)
        if stage != self._stage or operation.done < self._done:  # another replica may have restarted it
            self._progress.begin(operation.stage, operation.total)
            self._stage, self._done = stage, 0
        if operation.done > self._done:
            self._progress.advance(operation.done - self._done)
            self._done = operation.done
