"""Compatibility of a database's schema with this program, without Alembic."""

from __future__ import annotations

from enum import Enum
from typing import Final

from sqlalchemy import Connection, func, inspect, select

from registry.catalogue.database import migrations
from registry.catalogue.database.errors import placeless
from registry.errors import UnavailableError

HAS_TRIGRAMS: Final = select(func.to_regclass("ix_revisions_message_trigrams").is_not(None))
"""Of PostgreSQL: whether it has the indexes of trigrams, for which a role has to be allowed to create an extension."""
_NO_TRIGRAMS: Final = (
    "Searching for a text reads every revision: there is no index of trigrams, because the role that upgraded the "
    "schema can't create the extension pg_trgm. docs/operations.md says how to add it."
)


class Schema(Enum):
    """How the database's schema compares with this program's."""

    ABSENT = "absent"
    OLDER = "older"
    CURRENT = "current"  # the same, or a newer compatible one


def version_on(connection: Connection) -> str | None:
    """The newest migration that was applied; None: none was."""
    if migrations.VERSION_TABLE not in inspect(connection).get_table_names():
        return None
    version: str | None = connection.scalar(migrations.VERSION)
    return version


def compare(connection: Connection, where: str) -> Schema:
    """Compare the schema of the database ``where`` with this program's.

    Raises:
        UnavailableError: ``schema_newer``, or the database is not a registry's.
    """
    tables = set(inspect(connection).get_table_names())
    version = connection.scalar(migrations.VERSION) if migrations.VERSION_TABLE in tables else None
    if version is None:
        if tables - {migrations.VERSION_TABLE}:
            problem = f"The database {where} contains something other than a registry: use an empty one."
            raise placeless(UnavailableError(problem))
        return Schema.ABSENT
    newest = migrations.HISTORY[-1]
    if version == newest:
        return Schema.CURRENT
    if version in migrations.HISTORY:
        return Schema.OLDER
    # For rolling upgrades: a migration declares the oldest program that still works with it.
    oldest = None
    if migrations.COMPATIBILITY_TABLE in tables:
        oldest = connection.scalar(migrations.OLDEST, {"version": version})
    if oldest is not None and newest >= oldest:
        return Schema.CURRENT
    problem = (
        f"The database {where} was written by a newer version of the registry (schema {version}, this one supports "
        f"{newest}): upgrade this program."
    )
    raise placeless(UnavailableError(problem, code="schema_newer"))


def shuts_out(connection: Connection, before: str | None, after: str) -> bool:
    """Whether programs of the schema ``before`` can't use the database since it has the schema ``after``."""
    oldest: str | None = connection.scalar(migrations.OLDEST, {"version": after})
    return before is not None and (oldest is None or before < oldest)


def notices(connection: Connection) -> tuple[str, ...]:
    """What the database could not be given, and what that means, as sentences."""
    if connection.dialect.name != "postgresql" or connection.scalar(HAS_TRIGRAMS):
        return ()
    return (_NO_TRIGRAMS,)
