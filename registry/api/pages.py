"""Lists come in pages: the items, and a cursor that leads on from the last of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Generic, TypeVar

from fastapi import Query

from registry.catalogue.texts import is_plain
from registry.http.problems import MalformedError
from registry.schemas import Schema

T = TypeVar("T")
Key = str | int | Sequence[str]
LIMIT: Final = 100
MOST: Final = 500

Cursor = Annotated[
    str | None, Query(max_length=512, description="`next` of the page before; the first page without it.")
]
Limit = Annotated[int, Query(ge=1, le=MOST, description="How many items a page has at most.", examples=[LIMIT])]


class Page(Schema, Generic[T]):
    """Some items of a list, in its order."""

    items: tuple[T, ...]
    next: str | None  # None: there are no more


def cursor_to(key: Key) -> str:
    """The cursor that leads on from an item with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).rstrip(b"=").decode()


def text_key(cursor: str | None) -> str | None:
    """The key of a cursor in a list that is ordered by texts; raises `MalformedError`."""
    key = _key(cursor)
    if key is None:
        return None
    return _text(key)


def texts_key(cursor: str | None, count: int) -> tuple[str, ...] | None:
    """The key of a cursor in a list that is ordered by so many texts; raises `MalformedError`."""
    key = _key(cursor)
    if key is None:
        return None
    if not isinstance(key, list) or len(key) != count:
        raise foreign()
    return tuple(map(_text, key))


def number_key(cursor: str | None) -> int | None:
    """The key of a cursor in a list that is ordered by numbers; raises `MalformedError`."""
    key = _key(cursor)
    if key is not None and (not isinstance(key, int) or isinstance(key, bool) or not 0 <= key < 1 << 63):
        raise foreign()
    return key


def page(items: Sequence[T], limit: int, key: Callable[[T], Key]) -> Page[T]:
    """A page of ``items``, of which there is one more than fits where the list goes on."""
    there = tuple(items[:limit])
    return Page(items=there, next=cursor_to(key(there[-1])) if len(items) > limit else None)


def _key(cursor: str | None) -> object:
    if cursor is None:
        return None
    try:
        key: object = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        raise foreign() from None
    return key


def _text(key: object) -> str:
    if not isinstance(key, str) or not is_plain(key):
        raise foreign()
    return key


def foreign() -> MalformedError:
    """The error of a cursor that no page of the list gave."""
    return MalformedError("The cursor is not one of this list: take `next` of the page before, or leave it out.")
