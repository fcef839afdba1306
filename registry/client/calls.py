"""Runs operations of the table against a service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import quote

from registry.client.http.transport import Transport
from registry.client.jobs import result_of
from registry.operations.operation import A, Item, Job, Listing, Operation, R
from registry.progress import Progress
from registry.schemas import BaseAdded, Published
from registry.schemas.protocol import MOST, Page


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


def listed(transport: Transport, listing: Listing[R, Item], request: R, limit: int | None) -> tuple[Item, ...]:
    """All items of a listing, page by page, or the first ``limit``."""
    return tuple(_items(transport, listing, request, limit))


def _items(transport: Transport, listing: Listing[R, Item], request: R, limit: int | None) -> Iterator[Item]:
    params = request.model_dump(mode="json", exclude_defaults=True)
    cursor, left = None, limit
    while left is None or left > 0:
        size = MOST if left is None else min(MOST, left)
        page: type[Page[Item]] = Page[listing.item]  # type: ignore[name-defined]
        answer = transport.get(listing.address, page, cursor=cursor, limit=size, **params)
        items = answer.items if left is None else answer.items[:left]
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
