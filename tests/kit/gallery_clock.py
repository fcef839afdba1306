"""Times as if a registry had been used for months: what was done within seconds is moved to the days it stands for."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Table, select, update

from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import Record, UtcTime


class StoryClock:
    """Which real moments stand for which days of the story."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self._real: list[datetime] = []
        self._told: list[datetime] = []

    def turn(self, days_ago: float) -> datetime:
        """What is done from now on happened so many days ago; returns when that was."""
        told = self.now - timedelta(days=days_ago)
        self._real.append(datetime.now(UTC))
        self._told.append(told)
        return told

    def told(self, real: datetime) -> datetime:
        """When something happened in the story; what lies before it or ahead (an end, a lease) stays where it is."""
        at = bisect_right(self._real, real) - 1
        if at < 0 or real > datetime.now(UTC):
            return real
        return self._told[at] + (real - self._real[at])

    def rewrite(self, database: Database) -> None:
        """Move every time that the database holds."""
        for table in Record.metadata.sorted_tables:
            times = [column for column in table.columns if isinstance(column.type, UtcTime)]
            if times:
                self._rewrite_table(database, table, times)

    def _rewrite_table(self, database: Database, table: Table, times: list[Any]) -> None:
        keys = list(table.primary_key.columns)
        with database.write() as session:
            for row in session.execute(select(*keys, *times)).all():
                found = row._mapping
                moved = {time.name: self.told(found[time]) for time in times if found[time] is not None}
                if moved:
                    mine = [key == found[key] for key in keys]
                    session.execute(update(table).where(*mine).values(moved))
