"""Conditions that are probed: a look into an index for each row that is asked about."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select
from sqlalchemy.sql.elements import ColumnElement


def finds(query: Select[Any]) -> ColumnElement[bool]:
    """The condition that a query, correlated with the one around it, has a row.

    It is "exists", but with a limit: without, PostgreSQL reads all that the query may find at once, wherever it expects
    many rows around it, also where a page needs few.
    """
    return query.limit(1).scalar_subquery().is_not(None)
