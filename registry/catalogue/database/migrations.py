"""The schema's history: which migrations there are, and how Alembic is run on them.

The history stands here as a constant, so that opening a registry whose schema is current needs no Alembic
(it takes as long to import as everything else together).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, text

if TYPE_CHECKING:
    from alembic.config import Config

HISTORY: Final = tuple(f"{number:04}" for number in range(1, 20))  # oldest first, as the files
VERSION_TABLE: Final = "alembic_version"
VERSION: Final = text("SELECT version_num FROM alembic_version")
COMPATIBILITY_TABLE: Final = "compatibility"
OLDEST: Final = text("SELECT oldest FROM compatibility WHERE version = :version")

_PACKAGE = Path(__file__).parents[2]


def is_compared(_object: object, name: str | None, _kind: str, reflected: bool, _other: object) -> bool:
    """Whether Alembic compares an object of the database with the records: not what only some databases have."""
    own = ("adapter_texts", "revision_texts")  # tables of FTS5, with others of their own
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
