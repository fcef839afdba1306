"""The database behind the catalogue: transactions, its schema's age, and its errors as errors of the registry.

SQLite in a folder of its own, or PostgreSQL, with the same code and migrations. Services are handed a `Database` and
open at most one write transaction a request, with no slow work inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, QueuePool, Row, Select, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from registry.catalogue import faults, fitting, migrations, postgresql, sqlite
from registry.catalogue.beginning import begin_explicitly, connected, in_session, mode
from registry.catalogue.faults import from_system, translated
from registry.catalogue.fitting import Schema
from registry.catalogue.retrying import retried
from registry.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from registry.rights import UNLIMITED, Rights

__all__ = ["BUSY_TIMEOUT", "Database", "PoolUse", "Schema", "sqlite_url"]

T = TypeVar("T")

BUSY_TIMEOUT: Final = 30.0  # seconds
_MIGRATION_LOCK: Final = 0x72656769  # any fixed number: PostgreSQL's advisory locks are named by numbers


@dataclass(frozen=True)
class PoolUse:
    """Connections to the database: how many work now, wait for work, and may be open (None: as many as are needed)."""

    in_use: int
    idle: int
    size: int | None


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite database file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


class Database:
    """A catalogue's database. Opening one touches nothing.

    Every error of the database leaves as a `RegistryError`: ``busy``, ``disk_full``, ``read_only``, ``schema_newer``,
    ``schema_older``, ``corrupt`` or ``unavailable``. Sessions see what the rights allow that they are opened with.

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
            parsed = postgresql.with_driver(make_url(url))
        except (ArgumentError, ValueError) as error:
            # The URL itself stays out of the message: it may hold a password.
            raise UsageError(
                "The database URL is malformed: expected sqlite:///FILE or postgresql://USER@HOST/NAME."
            ) from error
        embedded = parsed.get_backend_name() == "sqlite" and parsed.database not in {None, "", ":memory:"}
        self._path = Path(parsed.database or "") if embedded else None
        self._where = str(self._path) if embedded else postgresql.shown(parsed)
        engine = self._open(parsed)
        self._engine = engine
        self._reader = mode(engine, "read")
        self._writer = mode(engine, "write")
        self._asker = mode(engine, "single")

    def _open(self, url: URL) -> Engine:
        if self._path is not None:
            with self._telling():
                return sqlite.engine(self._path, self._busy_timeout)
        if url.drivername != "postgresql+psycopg":
            raise UsageError(
                f"The database URL with {url.drivername}:// can't be used: expected sqlite:///FILE or postgresql://..."
            )
        try:
            return postgresql.engine(url)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise UnavailableError(
                f"The database {self._where} needs a driver that is not installed: {error}.", code="missing_package"
            ) from error

    @property
    def where(self) -> str:
        """The database as a person knows it: a file, or a URL without its password."""
        return self._where

    @contextmanager
    def read(self, rights: Rights = UNLIMITED) -> Iterator[Session]:
        """A read transaction: all queries see one state of the database, and nothing can be changed.

        Raises:
            NotFoundError: there is no registry yet.
        """
        if not self._checked:
            self._check_before_reading()
        frozen = sqlite.stamp(self._path) if self._path is not None and sqlite.is_frozen(self._path) else None
        with translated(self._where, self._folder), in_session(self._reader, rights) as session:
            yield session
            session.commit()  # psycopg forgets its prepared statements in a rollback
        if frozen is not None and self._path is not None and frozen != sqlite.stamp(self._path):
            raise UnavailableError(f"The database {self._where} was changed while it was read: try again.", code="busy")

    def first(self, query: Select[*tuple[Any, ...]], values: Mapping[str, object]) -> Row[*tuple[Any, ...]] | None:
        """The first row that one query of columns finds: for what is asked at every request. Rights are no matter here.

        Raises:
            NotFoundError: there is no registry yet.
        """
        if self._path is not None:
            with self.read() as session:
                return session.execute(query, values).first()
        if not self._checked:
            self._check_before_reading()
        with translated(self._where, self._folder):
            return retried(partial(self._ask, query, values))

    def _ask(self, query: Select[*tuple[Any, ...]], values: Mapping[str, object]) -> Row[*tuple[Any, ...]] | None:
        with self._asker.connect() as connection:
            return connection.execute(query, values).first()

    def change(self, work: Callable[[Session], T], *, rights: Rights = UNLIMITED) -> T:
        """What ``work`` answers, done in one write transaction.

        ``work`` is called again, with a new session, when its transaction lost against another one or its connection
        broke before the commit; so it must do nothing but read and change the database. When the connection breaks in
        the commit, nobody knows what came of it, and `UnavailableError` says so.
        """
        if not self._checked:
            self._check_before_writing()
        with translated(self._where, self._folder):
            return retried(partial(self._attempt, work, rights))

    def _attempt(self, work: Callable[[Session], T], rights: Rights) -> T:
        with in_session(self._writer, rights) as session:
            answer = work(session)
            session.flush()
            try:
                session.commit()
            except DBAPIError as error:
                unknown = faults.committing(error, self._where)
                if unknown is None:
                    raise
                raise unknown from error
            return answer

    @contextmanager
    def write(self, rights: Rights = UNLIMITED) -> Iterator[Session]:
        """A write transaction that is tried once, committed when the block is left and rolled back when it raises.

        The schema is created or upgraded before the first one. Services use `change`.
        """
        if not self._checked:
            self._check_before_writing()
        with translated(self._where, self._folder), in_session(self._writer, rights) as session:
            yield session
            session.commit()

    def ping(self) -> None:
        """See that the database answers and its schema fits this program; raise what is wrong with it."""
        state = self.schema()
        if state is not Schema.CURRENT:
            raise self._unfit()

    def pool(self) -> PoolUse:
        """The connections of this process."""
        pool = self._engine.pool
        if not isinstance(pool, QueuePool):
            return PoolUse(0, 0, None)
        return PoolUse(pool.checkedout(), pool.checkedin(), postgresql.POOL_MOST if self._path is None else None)

    def schema(self) -> Schema:
        """Compare the database's schema with this program's, without Alembic.

        Raises:
            UnavailableError: ``schema_newer``, or the database is not a registry's.
        """
        if not self._is_there():
            return Schema.ABSENT
        with translated(self._where, self._folder), connected(self._reader) as connection:
            return fitting.compare(connection, self._where)

    def version(self) -> str | None:
        """The newest migration that was applied; None: there is no registry yet."""
        if not self._is_there():
            return None
        with translated(self._where, self._folder), connected(self._reader) as connection:
            return fitting.version_on(connection)

    def _is_there(self) -> bool:
        """Whether there is a database to read."""
        with self._telling():
            return self._path is None or self._path.exists()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Raise what the system says of the database's place as an error of this package."""
        try:
            yield
        except OSError as error:
            raise from_system(error, self._where) from error

    def prepare(self) -> None:
        """Create the schema, or upgrade it; a copy of a SQLite database is kept next to it before it is upgraded.

        Any number of processes may call this at once; an interrupted call changes nothing.
        """
        if self.schema() is not Schema.CURRENT:
            with self.migrating() as connection:
                state = fitting.compare(connection, self._where)
                if state is Schema.OLDER and self._path is not None:
                    self._keep_copy(self._path, connection.scalar(migrations.VERSION))
                if state is not Schema.CURRENT:
                    migrations.upgrade(connection)
        self._checked = True

    def _keep_copy(self, path: Path, version: str | None) -> None:
        target = path.with_name(f"{path.name}.before-{migrations.HISTORY[-1]}-from-{version}")
        with self._telling():
            sqlite.copy(path, target, self._busy_timeout)

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """The connection and the transaction that a change of the schema runs in; one at a time on all machines."""
        with translated(self._where, self._folder):
            try:
                with connected(self._migration_engine()) as connection:
                    if self._path is None:
                        self._wait_for_turn(connection)
                    yield connection
                    if self._path is not None and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise IntegrityError(f"A migration of {self._where} would leave rows that point at nothing.")
                    connection.commit()
            except DBAPIError as error:
                if faults.sqlstate(error) != "55P03":
                    raise
                raise UnavailableError(
                    f"The database {self._where} could not be upgraded, because others held its tables, or were "
                    "upgrading it, for too long: nothing was changed. Try again, when there is less going on.",
                    code="busy",
                ) from error

    def _wait_for_turn(self, connection: Connection) -> None:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text(f"SET LOCAL lock_timeout = '{int(self._busy_timeout * 1000)}ms'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _migration_engine(self) -> Engine:
        path = self._path
        if path is None:
            return self._writer
        with self._telling():
            path.parent.mkdir(parents=True, exist_ok=True)
            sqlite.check_writable(path)
        engine = create_engine(
            "sqlite://", creator=lambda: sqlite.make_writable(path, self._busy_timeout), poolclass=NullPool
        )
        begin_explicitly(engine, sqlite.begin)
        return engine

    @property
    def _folder(self) -> Path | None:
        return None if self._path is None else self._path.parent

    def _check_before_reading(self) -> None:
        state = self.schema()
        if state is Schema.ABSENT and self._path is not None:
            raise NotFoundError(f"There is no registry at {self._where} yet: `registry base add` makes one.")
        if state is not Schema.CURRENT:
            self._upgrade_own()
        self._checked = True

    def _check_before_writing(self) -> None:
        if self._path is not None:
            self.prepare()
        elif self.schema() is not Schema.CURRENT:
            self._upgrade_own()
        self._checked = True

    def _upgrade_own(self) -> None:
        """A team's database is upgraded when its operator says so, an embedded one when it is opened."""
        if self._path is None:
            raise self._unfit()
        self.prepare()

    def _unfit(self) -> UnavailableError:
        return UnavailableError(
            f"The database {self._where} has no schema yet or an older one: run `registry db upgrade`.",
            code="schema_older",
        )
