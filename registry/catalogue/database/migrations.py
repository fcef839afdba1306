"""The schema's history: which migrations exist, whether a database fits this program, and how Alembic is run.

The history is a constant here, so that opening a registry whose schema is current needs no Alembic (it takes as long
to import as everything else together).
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, text

from registry.catalogue.database.errors import placeless
from registry.errors import UnavailableError

if TYPE_CHECKING:
    from alembic.config import Config


HISTORY: Final = tuple(f"{number:04}" for number in range(1, 23))  # oldest first, as the files
VERSION_TABLE: Final = "alembic_version"
VERSION: Final = text("SELECT version_num FROM alembic_version")
COMPATIBILITY_TABLE: Final = "compatibility"
OLDEST: Final = text("SELECT oldest FROM compatibility WHERE version = :version")

_PACKAGE = Path(__file__).parents[2]


def is_compared(_object: object, name: str | None, _kind: str, reflected: bool, _other: object) -> bool:
    """Whether Alembic compares an object of the database with the records: not what only some databases have."""
    own = ("adapter_texts", "revision_texts", "card_texts")  # tables of texts; of FTS5, with others of their own
    return not (reflected and name is not None and (name.startswith(own) or name.endswith("_trigrams")))


def folders() -> tuple[Path, Path]:
    """Where Alembic's env.py and the migrations are: inside an installed package, or at the top of a checkout."""
    shipped = _PACKAGE / "_alembic", _PACKAGE / "_migrations"
    return shipped if shipped[0].is_dir() else (_PACKAGE.parent / "alembic", _PACKAGE.parent / "migrations")


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration, made without an ini file, which is not shipped."""
    from alembic.config import Config

    script, versions = (str(folder).replace("%", "%%") for folder in folders())
    config = Config()
    config.set_main_option("script_location", script)
    config.set_main_option("version_locations", versions)
    config.set_main_option("path_separator", "newline")
    config.attributes["package"] = __name__.partition(".")[0]
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest migration, in the transaction that the connection is in."""
    from alembic import command

    command.upgrade(configuration(connection), "head")


class Schema(Enum):
    """How the database's schema compares with this program's."""

    ABSENT = "absent"
    OLDER = "older"
    CURRENT = "current"  # the same, or a newer compatible one


def version_on(connection: Connection) -> str | None:
    """The newest migration that was applied; None: none was."""
    if VERSION_TABLE not in inspect(connection).get_table_names():
        return None
    version: str | None = connection.scalar(VERSION)
    return version


def compare(connection: Connection, where: str) -> Schema:
    """Compare the schema of the database ``where`` with this program's.

    Raises:
        UnavailableError: ``schema_newer``, or the database is not a registry's.
    """
    tables = set(inspect(connection).get_table_names())
    version = connection.scalar(VERSION) if VERSION_TABLE in tables else None
    if version is None:
        if tables - {VERSION_TABLE}:
            problem = f"The database {where} contains something other than a registry: use an empty one."
            raise placeless(UnavailableError(problem))
        return Schema.ABSENT
    newest = HISTORY[-1]
    if version == newest:
        return Schema.CURRENT
    if version in HISTORY:
        return Schema.OLDER
    # For rolling upgrades: a migration declares the oldest program that still works with it.
    oldest = None
    if COMPATIBILITY_TABLE in tables:
        oldest = connection.scalar(OLDEST, {"version": version})
    if oldest is not None and newest >= oldest:
        return Schema.CURRENT
    problem = (
        f"The database {where} was written by a newer version of the registry (schema {version}, this one supports "
        f"{newest}): upgrade this program."
    )
    raise placeless(UnavailableError(problem, code="schema_newer"))


def shuts_out(connection: Connection, before: str | None, after: str) -> bool:
    """Whether programs of the schema ``before`` can't use the database since it has the schema ``after``."""
    oldest: str | None = connection.scalar(OLDEST, {"version": after})
    return before is not None and (oldest is None or before < oldest)
