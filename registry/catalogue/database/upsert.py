"""Insert if absent: ``ON CONFLICT DO NOTHING``, for which SQLAlchemy has no common construct."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from sqlalchemy import Executable
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.catalogue.database.tables import Record, table_of

Column = InstrumentedAttribute[Any]


def insert_if_absent(session: Session, key: Column, *answered: Column) -> Executable:
    """The statement that inserts rows whose ``key`` does not exist; returns columns of the inserted ones."""
    return _insert_if_absent(session.get_bind().dialect.name, key, answered)


@cache  # building it takes longer than running it
def _insert_if_absent(dialect: str, key: Column, answered: tuple[Column, ...]) -> Executable:
    table = table_of(cast(type[Record], key.class_))
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # slow to import, and not needed with SQLite

        theirs = postgresql.insert(table).on_conflict_do_nothing(index_elements=[key.key])
        return theirs.returning(*answered) if answered else theirs.inline()
    ours = sqlite.insert(table).on_conflict_do_nothing(index_elements=[key.key])
    return ours.returning(*answered) if answered else ours.inline()
