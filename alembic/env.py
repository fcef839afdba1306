"""What Alembic runs: on the connection it is handed by the registry, or on the one that REGISTRY_DATABASE_URL names."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from alembic import context
from sqlalchemy import Connection

# Alembic runs this file, so it has to be told by which name the package was imported (see `adapter_registry`).
_DATABASE = f"{context.config.attributes.get('package', 'registry')}.catalogue.database"
Database = import_module(f"{_DATABASE}.database").Database
UtcTime = import_module(f"{_DATABASE}.tables").UtcTime
is_compared = import_module(f"{_DATABASE}.migrations").is_compared
metadata = import_module(f"{_DATABASE}.team_tables").metadata

DEVELOPMENT: Final = "build/development.sqlite"  # below the checkout, for `alembic check` without any setting


def render_item(kind: str, item: Any, autogen: Any) -> str | Literal[False]:
    """Let migrations hold plain SQLAlchemy types only: they must run long after our own types have changed."""
    del autogen
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcTime) else False


def run_on(connection: Connection | None, **options: Any) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata(),
        render_item=render_item,
        include_object=is_compared,
        render_as_batch=True,  # SQLite changes a table by making it anew
        compare_type=True,
        transactional_ddl=True,
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()


def database_url() -> str:
    url = os.environ.get("REGISTRY_DATABASE_URL")
    if url:
        return url
    path = Path(__file__).parents[1] / DEVELOPMENT
    path.parent.mkdir(exist_ok=True)
    return f"sqlite:///{path}"


def run() -> None:
    handed: Connection | None = context.config.attributes.get("connection")
    if context.is_offline_mode():
        run_on(None, dialect_name=context.config.attributes.get("dialect", "postgresql"), literal_binds=True)
    elif handed is not None:
        run_on(handed)
    else:
        database = Database(database_url())
        with database.migrating() as connection:
            run_on(connection)
        database.dispose()


run()
