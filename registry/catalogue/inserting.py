"""Writing rows unless they are there: the same clause on both databases, for which there is no common construct."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from sqlalchemy import Executable
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.catalogue.tables import Record, table_of

Column = InstrumentedAttribute[Any]


def if_new(session: Session, key: Column, *answered: Column) -> Executable:
    """The statement that writes rows whose ``key`` is not there yet; it answers columns of those that it wrote."""
    return _if_new(session.get_bind().dialect.name, key, answered)


@cache  # made once: it takes longer to make than to run
def _if_new(dialect: str, key: Column, answered: tuple[Column, ...]) -> Executable:
    table = table_of(cast(type[Record], key.class_))
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # slow to import, and not needed with SQLite

        theirs = postgresql.insert(table).on_conflict_do_nothing(index_elements=[key.key])
        return theirs.returning(*answered) if answered else theirs.inline()
    ours = sqlite.insert(table).on_conflict_do_nothing(index_elements=[key.key])
    return ours.returning(*answered) if answered else ours.inline()
