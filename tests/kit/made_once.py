"""What tests take instead of the real thing, because each of thousands would make it again.

`tests/conftest.py` puts all of it into place, and `test_kit_made_once` compares it with the real thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import ssl
import tempfile
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from fastapi import routing
from sqlalchemy import Connection
from sqlalchemy.engine import Dialect

from registry.catalogue.database import migrations, prepared
from registry.catalogue.database.database import Database, sqlite_url
from registry.rights import Rights


def certificates_read_once() -> Callable[..., ssl.SSLContext]:
    """For clients that are made as usual: each reads the certificates of all authorities, which takes 20 ms."""
    made = cache(lambda *_: httpx.create_ssl_context())

    def create(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is not True or cert is not None or not trust_env:
            return httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
        return made(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))

    return create


def schema_made_once() -> Callable[[Connection], None]:
    """`migrations.upgrade` by repeating the statements that its outcome is written in."""
    migrate = migrations.upgrade
    written: list[str] = []

    def upgrade(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        if not isinstance(driver, sqlite3.Connection) or _statements(driver):
            migrate(connection)
        elif not written:
            migrate(connection)
            written[:] = _statements(driver)  # two threads may come here at once
        else:
            for statement in written:
                connection.exec_driver_sql(statement)

    return upgrade


def database_made_once(folder: Path, repeat: Callable[[Connection], None]) -> Callable[[Database], None]:
    """`Database.create` by a copy of an empty database, where ``repeat`` is what migrations are."""
    create, template = Database.create, folder / "registry.db"

    def copied(database: Database) -> None:
        path = database._path
        if path is None or path.exists() or migrations.upgrade is not repeat:
            create(database)
            return
        if not template.is_file():
            first = Database(sqlite_url(Path(tempfile.mkdtemp(dir=folder)) / "first.db"))
            create(first)
            first.dispose()
            Path(first.where).replace(template)
        copy = folder / uuid4().hex
        with os.fdopen(
            os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb"
        ) as stream:  # as SQLite makes it
            stream.write(template.read_bytes())
        with contextlib.suppress(OSError):  # somebody else made it, or nobody can: the real one finds out
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(copy, path)
        copy.unlink()
        database.prepare()

    return copied


def without_waiting(connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    """`sqlite.connect` for databases that need not be on disk: what was written outlives a process all the same."""

    def connected(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    return connected


class Sooner:
    """`asyncio` for uvicorn's server, which looks ten times a second whether it is to end, and then waits once more."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        """A tenth of the time."""
        await asyncio.sleep(seconds / 10)


def routes_made_once() -> Callable[[Any, Any], Any]:
    """What FastAPI makes of a route when an app is built: of all apps of a process, which is most of building one.

    It is shared where the router was included as ours are: plainly. The app that it was made for is only asked for
    overrides of dependencies, which nothing here has.
    """
    build = routing._IncludedRouter._build_effective_context
    made: dict[tuple[object, ...], Any] = {}  # each with its route, so that no other gets the same id

    def shared(included: Any, route: Any) -> Any:
        context = included.include_context
        if not isinstance(route, routing.APIRoute) or context.tags or context.dependencies or context.responses:
            return build(included, route)
        key = id(route), context.prefix, context.deprecated, context.include_in_schema, context.max_body_size
        if key not in made:
            made[key] = build(included, route)
        return made[key]

    return shared


class _Kind:
    """A dialect for a key: those of one kind compile alike, and each database has one of its own."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.key = type(dialect), dialect.server_version_info

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kind) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def prepared_once() -> Callable[[prepared.Prepared, Dialect, Rights], prepared.Statement]:
    """Prepared queries for all databases of one backend, as `compiled_once`."""
    compile_one = prepared.statement.__wrapped__

    @lru_cache(maxsize=4096)
    def of_kind(query: prepared.Prepared, kind: _Kind, rights: Rights) -> prepared.Statement:
        return compile_one(query, kind.dialect, rights)

    return lambda query, dialect, rights: of_kind(query, _Kind(dialect), rights)


class _Compiled(dict[Any, Any]):
    """Compiled SQL for all engines of one backend: keys begin with the dialect, of which each engine has its own."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key[1:], default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key[1:], value)


def compiled_once() -> dict[str, _Compiled]:
    """The option of SQLAlchemy for a cache of one's own. Each test opens its database, and compiling takes a sixth."""
    return {"compiled_cache": _Compiled()}


def _statements(driver: sqlite3.Connection) -> list[str]:
    """The SQL that makes a database like this one."""
    return list(driver.iterdump())[1:-1]  # without BEGIN and COMMIT
