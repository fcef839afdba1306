"""How the store grew: bytes by the week in which they were stored."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from sqlalchemy import update

from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import Blob
from registry.catalogue.store import blobs, purge, usage
from registry.digest import BlobRef
from registry.schemas.jobs import StoredWeek
from tests.catalogue.rows import blob

WEDNESDAY = date(2026, 3, 4)
MONDAY = date(2026, 3, 2)


def test_bytes_are_counted_in_the_week_in_which_they_were_stored(database: Database) -> None:
    moments = {  # sizes of blobs, and when each was stored
        1: datetime(2026, 3, 4, 12, tzinfo=UTC),
        2: datetime(2026, 3, 2, tzinfo=UTC),  # the first moment of the week
        4: datetime(2026, 3, 1, 23, 59, 59, 999999, tzinfo=UTC),  # the last one of the week before
        8: datetime(2025, 12, 15, tzinfo=UTC),  # the first moment of all
        16: datetime(2025, 12, 14, 23, tzinfo=UTC),  # before
    }
    with database.write() as session:
        for size, at in moments.items():
            one = blob(f"stored {size}")
            blobs.record(session, [BlobRef(one.digest, size, one.blocks_digest, one.key)])
            session.execute(update(Blob).where(Blob.digest == one.digest).values(created_at=at))
        purge.add(session, ["blobs/gone"])
    with database.read() as session:
        found = usage.weeks(session, WEDNESDAY)
        assert usage.stored(session) == 31
    assert [one.week for one in found] == [MONDAY - timedelta(weeks=number) for number in range(11, -1, -1)]
    assert [one for one in found if one.bytes] == [
        StoredWeek(week=date(2025, 12, 15), bytes=8),
        StoredWeek(week=date(2026, 2, 23), bytes=4),
        StoredWeek(week=MONDAY, bytes=3),
    ]


def test_an_empty_store(database: Database) -> None:
    with database.read() as session:
        assert usage.stored(session) == 0
        assert {one.bytes for one in usage.weeks(session, WEDNESDAY)} == {0}
