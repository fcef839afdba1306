"""Upserts: ``ON CONFLICT DO NOTHING`` and ``DO UPDATE``, for which SQLAlchemy has no common construct."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from sqlalchemy import Executable, Table, case
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


def insert_new(record: type[Record], session: Session) -> Executable:
    """The statement that inserts rows whose primary key does not exist."""
    return _insert_new(session.get_bind().dialect.name, record)


@cache
def _insert_new(dialect: str, record: type[Record]) -> Executable:
    table = table_of(record)
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key)).inline()
    return sqlite.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key)).inline()


def insert_or_add(record: type[Record], session: Session, amount: Column, latest: Column) -> Executable:
    """The statement that inserts rows; where a row of the same primary key exists, ``amount`` is added to it, and
    ``latest`` becomes the later of both.
    """
    return _insert_or_add(session.get_bind().dialect.name, record, amount.key, latest.key)


@cache
def _insert_or_add(dialect: str, record: type[Record], amount: str, latest: str) -> Executable:
    table = table_of(record)
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        theirs = postgresql.insert(table)
        return theirs.on_conflict_do_update(
            index_elements=list(table.primary_key), set_=_sum(table, theirs.excluded, amount, latest)
        ).inline()
    ours = sqlite.insert(table)
    return ours.on_conflict_do_update(
        index_elements=list(table.primary_key), set_=_sum(table, ours.excluded, amount, latest)
    ).inline()


def _sum(table: Table, given: Any, amount: str, latest: str) -> dict[str, Any]:
    mine, new = table.c[latest], given[latest]
    return {amount: table.c[amount] + given[amount], latest: case((new > mine, new), else_=mine)}
