"""What is meant by a start: a duration before now, a date, a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from registry.errors import UsageError
from registry.operations.arguments import start_of

EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("2026-03-04", datetime(2026, 3, 4, tzinfo=UTC)),
        ("2026-03-04T05:06", datetime(2026, 3, 4, 5, 6, tzinfo=UTC)),
        ("2026-03-04 05:06:07", datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)),
        (" 2026-03-04T05:06:07.5Z ", datetime(2026, 3, 4, 5, 6, 7, 500000, tzinfo=UTC)),
        ("2026-03-04T05:06+02:00", datetime(2026, 3, 4, 3, 6, tzinfo=UTC)),
        (datetime(2026, 3, 4, 5, 6), datetime(2026, 3, 4, 5, 6, tzinfo=UTC)),  # noqa: DTZ001 - it is about that
        (datetime(2026, 3, 4, 5, 6, tzinfo=EAST), datetime(2026, 3, 4, 3, 6, tzinfo=UTC)),
    ],
)
def test_a_date_or_a_time_is_in_utc(given: str | datetime, meant: datetime) -> None:
    found = start_of(given)
    assert (found, found.utcoffset()) == (meant, timedelta(0))


@pytest.mark.parametrize(
    ("given", "ago"), [("24h", timedelta(days=1)), ("7d", timedelta(days=7)), (timedelta(minutes=3), timedelta(0, 180))]
)
def test_a_duration_is_before_now(given: str | timedelta, ago: timedelta) -> None:
    before = datetime.now(UTC)
    found = start_of(given)
    assert before - ago <= found <= datetime.now(UTC) - ago


@pytest.mark.parametrize(
    "given",
    ["", "yesterday", "24", "1w", "2026-13-01", "999999999d", "0001-01-01T00:00+02:00", "\x00", timedelta(days=10**6)],
)
def test_anything_else_is_refused(given: str | timedelta) -> None:
    with pytest.raises(UsageError, match="24h, 7d, a date such as 2026-03-04, or a time"):
        start_of(given)
