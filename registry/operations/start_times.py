"""Since when: a time that is given as a duration before now, a date, or a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from registry.errors import UsageError
from registry.settings.parsers import parse_duration


def start_of(given: str | datetime | timedelta) -> datetime:
    """The time in UTC that is meant by ``24h``, ``2026-03-04``, ``2026-03-04T05:06``, or a time or duration of Python.

    What has no zone is UTC, as all times that the registry shows.

    Raises:
        UsageError: it is none of these, or lies outside the years 1 to 9999.
    """
    try:
        if isinstance(given, timedelta):
            return datetime.now(UTC) - given
        found = given if isinstance(given, datetime) else _read(given)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"The time {str(given)!r} is malformed: 24h, 7d, a date such as 2026-03-04, or a time such as "
            "2026-03-04T05:06 is expected."
        ) from None


def _read(text: str) -> datetime:
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        return datetime.fromisoformat(text.strip())
