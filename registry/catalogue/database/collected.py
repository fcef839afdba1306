"""Rows of a second table as one value of a row: a revision comes with its files in one query.

The value is a JSON list with a list of each row's columns. Databases write floats into JSON as they like: columns are
texts, integers and documents.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import JSON, Select, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

_SQLITE: Final = "json_group_array(json_array({}))"
_POSTGRESQL: Final = "json_agg(json_build_array({}))"  # NULL where there are no rows


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
