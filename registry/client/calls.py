"""Runs operations of the table against a service, and waits for those that it continues as jobs after its response."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, cast
from urllib.parse import quote

import httpx

from registry.client.errors import error_of
from registry.client.transport import Transport
from registry.errors import UnavailableError
from registry.operations.operation import A, Item, Job, Listing, Operation, Part, R
from registry.progress import Progress
from registry.schemas import BaseAdded, Published
from registry.schemas.jobs import Operation as RunningOperation
from registry.schemas.jobs import OperationResult
from registry.schemas.protocol import MOST, Page

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
    operation = transport.read(answer, RunningOperation)
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
        operation = transport.get(f"/operations/{operation.id}", RunningOperation)


def _state(operation: RunningOperation) -> tuple[object, ...]:
    return operation.state, operation.stage, operation.done, operation.updated_at


class _Told:
    """Reports an operation's progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage: tuple[str, int] | None = None
        self._done = 0

    def show(self, operation: RunningOperation) -> None:
        if operation.total <= 0:
            return
        stage = (operation.stage, operation.total)
        if stage != self._stage or operation.done < self._done:  # another replica may have restarted it
            self._progress.begin(operation.stage, operation.total)
            self._stage, self._done = stage, 0
        if operation.done > self._done:
            self._progress.advance(operation.done - self._done)
            self._done = operation.done


def do(transport: Transport, operation: Operation[R, A], request: R, progress: Progress) -> A:
    """Run an operation: one request, and for a job, waiting for its end.

    Raises:
        RegistryError: the service's error, or that it is unreachable.
    """
    carried = operation.method in {"POST", "PUT"}
    params = {} if carried else request.model_dump(mode="json", exclude_defaults=True)
    answer = transport.call(
        operation.method,
        _address(operation.address, params),
        params=params,
        body=request if carried else None,
        idempotent=operation.idempotent(request),
        slow=operation.slow or isinstance(operation, Job),
    )
    if isinstance(operation, Job):
        result: A = result_of(transport, answer, operation, progress)
        return _located(transport, result)
    return transport.read(answer, operation.answer)


def listed(transport: Transport, listing: Listing[R, Item], request: R, limit: int | None) -> Part[Item]:
    """All items of a listing, page by page, or the first ``limit``."""
    notices: dict[str, None] = {}
    return Part(tuple(_items(transport, listing, request, limit, notices)), notices=tuple(notices))


def _items(
    transport: Transport, listing: Listing[R, Item], request: R, limit: int | None, notices: dict[str, None]
) -> Iterator[Item]:
    params = request.model_dump(mode="json", exclude_defaults=True)
    cursor, left = None, limit
    while left is None or left > 0:
        size = MOST if left is None else min(MOST, left)
        page: type[Page[Item]] = Page[listing.item]  # type: ignore[name-defined]
        answer = transport.get(listing.address, page, cursor=cursor, limit=size, **params)
        items = answer.items if left is None else answer.items[:left]
        notices |= dict.fromkeys(answer.notices)
        yield from items
        if answer.next is None:
            return
        cursor = answer.next
        left = None if left is None else left - len(items)


def _address(address: str, params: dict[str, Any]) -> str:
    """Fill the fields of the address, removing them from the query parameters."""
    for field in [field for field in params if f"{{{field}}}" in address]:
        address = address.replace(f"{{{field}}}", quote(str(params.pop(field)), safe=""))
    return address


def _located(transport: Transport, answer: A) -> A:
    """Replace the registry's address in an answer by the one that this client uses."""
    if isinstance(answer, Published | BaseAdded):
        return cast("A", answer.model_copy(update={"registry": transport.url}))
    return answer
