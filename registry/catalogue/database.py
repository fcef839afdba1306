"""The database behind the catalogue: transactions, its schema's age, and its errors as errors of the registry.

SQLite in a folder of its own now, PostgreSQL with the same code and migrations. Services are handed a `Database` and
open at most one write transaction a request, with no slow work inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import Session

from registry.catalogue import migrations, sqlite
from registry.catalogue.faults import from_system, translated
from registry.errors import IntegrityError, NotFoundError, UnavailableError, UsageError

BUSY_TIMEOUT: Final = 30.0  # seconds
_MIGRATION_LOCK: Final = 0x72656769  # any fixed number: PostgreSQL's advisory locks are named by numbers


class Schema(Enum):
    """How the database's schema compares with this program's."""

    ABSENT = "absent"
    OLDER = "older"
    CURRENT = "current"


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite database file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


class Database:
    """A catalogue's database. Opening one touches nothing.

    Every error of the database leaves as a `RegistryError`: ``busy``, ``disk_full``, ``read_only``, ``schema_newer``,
    ``corrupt`` or ``unavailable``.

    Args:
        url: ``sqlite:///FILE`` or a URL of PostgreSQL.
        busy_timeout: how long to wait for another writer, in seconds.

    Raises:
        UsageError: the URL is malformed or names a kind of database that the registry does not use.
    """

    def __init__(self, url: str, *, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self._busy_timeout = busy_timeout
        self._checked = False
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise UsageError(f"The database URL {url!r} is malformed: expected sqlite:///FILE.") from error
        self._path = Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
        self._where = str(self._path or parsed.render_as_string(hide_password=True))
        engine = self._open(parsed)
        self._engine = engine
        self._reader = engine.execution_options(**{sqlite.MODE: "read"})
        self._writer = engine.execution_options(**{sqlite.MODE: "write"})
        if self._path is None:
            # One snapshot for all queries of a request, as SQLite gives it.
            self._reader = self._reader.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def _open(self, url: URL) -> Engine:
        backend = url.get_backend_name()
        if backend == "sqlite" and self._path is not None and str(self._path) != ":memory:":
            return sqlite.engine(self._path, self._busy_timeout)
        if backend != "postgresql":
            raise UsageError(
                f"The database URL {self._where!r} can't be used: expected sqlite:///FILE or postgresql://..."
            )
        try:
            return create_engine(url, pool_pre_ping=True)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise UnavailableError(
                f"The database {self._where} needs a driver that is not installed: {error}.", code="missing_package"
            ) from error

    @property
    def where(self) -> str:
        """The database as a person knows it: a file, or a URL without its password."""
        return self._where

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read transaction: all queries see one state of the database, and nothing can be changed.

        Raises:
            NotFoundError: there is no registry yet.
        """
        if not self._checked:
            self._check_before_reading()
        frozen = sqlite.stamp(self._path) if self._path is not None and sqlite.is_frozen(self._path) else None
        with translated(self._where, self._folder), Session(self._reader, expire_on_commit=False) as session:
            yield session
        if frozen is not None and self._path is not None and frozen != sqlite.stamp(self._path):
            raise UnavailableError(f"The database {self._where} was changed while it was read: try again.", code="busy")

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A write transaction, committed when the block is left and rolled back when it raises.

        The lock for writing is held from the beginning. The schema is created or upgraded before the first one.
        """
        if not self._checked:
            self._check_before_writing()
        with translated(self._where, self._folder), Session(self._writer, expire_on_commit=False) as session:
            session.connection()
            yield session
            session.commit()

    def schema(self) -> Schema:
        """Compare the database's schema with this program's, without Alembic.

        Raises:
            UnavailableError: ``schema_newer``, or the database is not a registry's.
        """
        if self._path is not None and not self._path.exists():
            return Schema.ABSENT
        with translated(self._where, self._folder), self._reader.connect() as connection:
            return self._schema_on(connection)

    def prepare(self) -> None:
        """Create the schema, or upgrade it; a copy of a SQLite database is kept next to it before it is upgraded.

        Any number of processes may call this at once; an interrupted call changes nothing.
        """
        if self.schema() is not Schema.CURRENT:
            with self.migrating() as connection:
                state = self._schema_on(connection)
                if state is Schema.OLDER and self._path is not None:
                    self._keep_copy(self._path, connection.scalar(migrations.VERSION))
                if state is not Schema.CURRENT:
                    migrations.upgrade(connection)
        self._checked = True

    def _keep_copy(self, path: Path, version: str | None) -> None:
        target = path.with_name(f"{path.name}.before-{migrations.HISTORY[-1]}-from-{version}")
        try:
            sqlite.copy(path, target, self._busy_timeout)
        except OSError as error:
            raise from_system(error, self._where) from error

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """The connection and the transaction that a change of the schema runs in; one at a time on all machines."""
        with translated(self._where, self._folder), self._migration_engine().begin() as connection:
            if self._path is None:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            yield connection
            if self._path is not None and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise IntegrityError(f"A migration of {self._where} would leave rows that point at nothing.")

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _migration_engine(self) -> Engine:
        path = self._path
        if path is None:
            return self._writer
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sqlite.check_writable(path)
        except OSError as error:
            raise from_system(error, self._where) from error
        engine = create_engine(
            "sqlite://", creator=lambda: sqlite.make_writable(path, self._busy_timeout), poolclass=NullPool
        )
        sqlite.begin_explicitly(engine)
        return engine.execution_options(**{sqlite.MODE: "write"})

    @property
    def _folder(self) -> Path | None:
        return None if self._path is None else self._path.parent

    def _check_before_reading(self) -> None:
        state = self.schema()
        if state is Schema.ABSENT:
            raise NotFoundError(f"There is no registry at {self._where} yet: `registry base add` makes one.")
        if state is Schema.OLDER:
            self._upgrade_own()
        self._checked = True

    def _check_before_writing(self) -> None:
        if self._path is not None:
            self.prepare()
        elif self.schema() is not Schema.CURRENT:
            self._upgrade_own()

    def _upgrade_own(self) -> None:
        """A team's database is upgraded when its operator says so, an embedded one when it is opened."""
        if self._path is None:
            raise UnavailableError(
                f"The database {self._where} has no schema yet or an older one: run `registry db upgrade`."
            )
        self.prepare()

    def _schema_on(self, connection: Connection) -> Schema:
        tables = set(inspect(connection).get_table_names())
        version = None
        if migrations.VERSION_TABLE in tables:
            version = connection.scalar(migrations.VERSION)
        if version is None:
            if tables - {migrations.VERSION_TABLE}:
                raise UnavailableError(
                    f"The database {self._where} holds something else than a registry: name an empty one."
                )
            return Schema.ABSENT
        if version == migrations.HISTORY[-1]:
            return Schema.CURRENT
        if version in migrations.HISTORY:
            return Schema.OLDER
        raise UnavailableError(
            f"The database {self._where} was written by a newer version of the registry (schema {version}, this one "
            f"knows {migrations.HISTORY[-1]}): upgrade this program.",
            code="schema_newer",
        )
