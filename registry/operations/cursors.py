"""Keys of cursors: where the next page of a listing begins. What no page gave raises ValueError."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite

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


def event_key(key: object) -> tuple[datetime, int]:
    """Of events: the time of one, and which it is of those of this time."""
    if not isinstance(key, list) or len(key) != 2:
        raise ValueError("a time and a number are expected")
    return _moment(key[0]), number_key(key[1])


def job_key(key: object) -> tuple[datetime, str]:
    """Of jobs: the time of one, and its id."""
    if not isinstance(key, list) or len(key) != 2:
        raise ValueError("a time and an id are expected")
    return _moment(key[0]), text_key(key[1])


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
