"""The floor of both sides of the race: the indexed query alone, on the registry's tables, by the database's own driver.

And one row in a transaction, for publishing.
"""

from __future__ import annotations

import random
import sqlite3
from typing import Any

import psycopg
from sqlalchemy import make_url

from benchmarks.service_race import Work

EACH = 10
QUERY = (
    "SELECT r.id, r.number, r.digest, r.manifest, r.message, r.author, r.created_at FROM adapters a "
    "JOIN tags t ON t.adapter_id = a.id AND t.name = ? JOIN revisions r ON r.id = t.revision_id WHERE a.path = ?"
)
MAKE = "CREATE TABLE IF NOT EXISTS bare_rows (writer BIGINT, number BIGINT, value TEXT, PRIMARY KEY (writer, number))"
INSERT = "INSERT INTO bare_rows SELECT ?, coalesce(max(number), 0) + 1, ? FROM bare_rows WHERE writer = ?"


def _connect(url: str) -> tuple[Any, str]:
    """A connection that commits every statement, and what stands for a value in one."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return sqlite3.connect(str(parsed.database), isolation_level=None, timeout=30), "?"
    text = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(text, autocommit=True, prepare_threshold=0), "%s"


def looker(url: str, number: int, count: int) -> Work:
    """Find the revision that a tag of some adapter means."""
    connection, mark = _connect(url)
    query, chance = QUERY.replace("?", mark), random.Random(number)

    def work() -> None:
        path = f"bench/a{chance.randrange(count // EACH):06d}"
        assert connection.execute(query, ("prod", path)).fetchone()[1] == EACH

    return work


def publisher(url: str, number: int, count: int) -> Work:
    """Write the next row of this writer."""
    del count
    connection, mark = _connect(url)
    statement = INSERT.replace("?", mark)

    def work() -> None:
        connection.execute(statement, (number, "x" * 400, number))

    return work


def prepare(url: str) -> None:
    """Make the table that `publisher` writes to."""
    connection, _ = _connect(url)
    connection.execute(MAKE)
    connection.close()
