"""Keys of cursors: where the next page of a listing begins. What no page gave raises ValueError."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from math import isfinite
from typing import Final

from registry.errors import UsageError
from registry.reference import Reference
from registry.schemas.texts import is_plain


def text_key(key: object) -> str:
    """Of a listing that is ordered by texts."""
    if not isinstance(key, str) or not is_plain(key):
        raise ValueError("a text is expected")
    return key


def number_key(key: object) -> int:
    """Of a listing that is ordered by numbers."""
    if not isinstance(key, int) or isinstance(key, bool) or not 0 <= key < 1 << 63:
        raise ValueError("a number is expected")
    return key


def value_key(key: object) -> datetime | float | None:
    """Of what a listing may be ordered by before all else: a time, a number, or nothing."""
    if key is None or (isinstance(key, int | float) and not isinstance(key, bool) and isfinite(key)):
        return None if key is None else float(key)
    return _moment(key)


def keys(*parts: Callable[[object], object]) -> Callable[[object], tuple[object, ...]]:
    """Of a listing that is ordered by several things, each of which has its own key."""

    def read(key: object) -> tuple[object, ...]:
        if not isinstance(key, list) or len(key) != len(parts):
            raise ValueError(f"{len(parts)} values are expected")
        return tuple(part(one) for part, one in zip(parts, key, strict=True))

    return read


def creation_key(key: object) -> tuple[str, int, datetime, str]:
    """Of a listing that is ordered by revision and time: its path and number, the time, and an id."""
    if not isinstance(key, list) or len(key) != 3:
        raise ValueError("three texts are expected")
    reference, created_at, last = map(text_key, key)
    try:
        parsed, moment = Reference.parse(reference), datetime.fromisoformat(created_at).astimezone(UTC)
    except (UsageError, OverflowError):
        raise ValueError("a revision and a time are expected") from None
    if parsed.number is None:
        raise ValueError("a revision is named by its number")
    return str(parsed.path), parsed.number, moment, last


def search_key(key: object) -> tuple[str, int | None, float | None]:
    """Of a search: a path, with the number and the value of a metric where it is ordered by them."""
    if not isinstance(key, list):
        return text_key(key), None, None
    if len(key) != 3:
        raise ValueError("a path, a number and a value are expected")
    path, number, value = key
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value)):
        raise ValueError("a finite number is expected")
    return text_key(path), number_key(number), None if value is None else float(value)


def _moment(key: object) -> datetime:
    try:
        return datetime.fromisoformat(text_key(key)).astimezone(UTC)
    except OverflowError:
        raise ValueError("a time is expected") from None


event_key: Final = keys(_moment, number_key)
"""Of events: the time of one, and which it is of those of this time."""
job_key: Final = keys(_moment, text_key)
"""Of jobs: the time of one, and its id."""
