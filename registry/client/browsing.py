"""Lists of a service, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

from pydantic import RootModel

from registry.client.transport import Transport
from registry.schemas import BaseSummary, Event, ProtectedTag, RevisionSummary, Schema, Token

PAGE: Final = 500
Item = TypeVar("Item", bound=Schema)


class Page(Schema, Generic[Item]):
    """A part of a list; ``next`` is the cursor of the next one."""

    items: tuple[Item, ...]
    next: str | None


def listed(
    transport: Transport, route: str, page: type[Page[Item]], limit: int | None = None, /, **params: str | None
) -> tuple[Item, ...]:
    """All items of a list, or the first ``limit``."""
    return tuple(_items(transport, route, page, limit, params))


def _items(
    transport: Transport, route: str, page: type[Page[Item]], limit: int | None, params: Mapping[str, Any]
) -> Iterator[Item]:
    cursor = None
    left = limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        answer = transport.get(route, page, cursor=cursor, limit=size, **params)
        items = answer.items if left is None else answer.items[:left]
        yield from items
        if answer.next is None:
            return
        cursor = answer.next
        left = None if left is None else left - len(items)


class BasePage(Page[BaseSummary]):
    """Of base models."""


class RevisionPage(Page[RevisionSummary]):
    """Of revisions."""


class EventPage(Page[Event]):
    """Of events."""


class TokenPage(Page[Token]):
    """Of tokens."""


class ProtectedTags(RootModel[tuple[ProtectedTag, ...]]):
    """All patterns of one base model."""


class References(RootModel[tuple[str, ...]]):
    """References, in an order that means something."""
