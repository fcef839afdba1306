"""Statements that SQLAlchemy has no common construct for: upserts, and rows of a second table as one value.

``ON CONFLICT DO NOTHING`` and ``DO UPDATE``. A revision comes with its files in one query: as a JSON list with a list
of each row's columns, which are texts, integers and documents, since databases write floats into JSON as they like.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, cast

from sqlalchemy import JSON, Executable, Select, Table, case, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

from registry.catalogue.database.tables import Record, table_of

_SQLITE: Final = "json_group_array(json_array({}))"
_POSTGRESQL: Final = "json_agg(json_build_array({}))"  # NULL without rows


class _Rows(FunctionElement[Any]):
    """All rows of some columns."""

    type = JSON()
    inherit_cache = True


def collected(*columns: Any) -> Select[Any]:
    """The query whose one value are the rows of columns; for a scalar subquery, which is read by `rows_in`."""
    return select(_Rows(*columns))


def rows_in(value: list[list[Any]] | None) -> list[list[Any]]:
    """The rows in a value of `collected`; documents among the columns are read."""
    return value or []


@compiles(_Rows, "sqlite")
def _on_sqlite(rows: _Rows, compiler: SQLCompiler, **how: Any) -> str:
    columns = (_document_on_sqlite(one, compiler, how) for one in rows.clauses)
    return _SQLITE.format(", ".join(columns))


def _document_on_sqlite(column: ColumnElement[Any], compiler: SQLCompiler, how: dict[str, Any]) -> str:
    text = compiler.process(column, **how)
    return f"json({text})" if isinstance(column.type, JSON) else text


@compiles(_Rows, "postgresql")
def _on_postgresql(rows: _Rows, compiler: SQLCompiler, **how: Any) -> str:
    return _POSTGRESQL.format(", ".join(compiler.process(one, **how) for one in rows.clauses))


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
    """The statement that inserts rows; if a row of the same primary key exists, ``amount`` is added to it, and
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
