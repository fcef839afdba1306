"""The database behind the catalogue: transactions, its upgrade under a lock, schema version, and error mapping.

SQLite in a folder of its own, or PostgreSQL, with the same code and migrations. Services get a `Database` and use at
most one write transaction a request, with no slow work inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, QueuePool, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from registry.catalogue.database import errors, migrations, postgresql, sqlite
from registry.catalogue.database import migrations as fitting
from registry.catalogue.database.errors import from_system, translated
from registry.catalogue.database.migrations import Schema
from registry.catalogue.database.prepared import Connections, Prepared, Reader, Rows, reader_on, reading
from registry.catalogue.database.transactions import (
    begin_explicitly,
    connected,
    in_session,
    mode,
    reading_session,
    retried,
)
from registry.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from registry.figures import command
from registry.folders.local_files import ErrorMapping
from registry.rights import UNLIMITED, Rights

__all__ = ["BUSY_TIMEOUT", "Database", "PoolUse", "Schema", "Upgrade", "sqlite_url"]

T = TypeVar("T")

BUSY_TIMEOUT: Final = 30.0  # seconds
_MIGRATION_LOCK: Final = 0x72656769  # any fixed number: PostgreSQL's advisory locks are named by numbers


@dataclass(frozen=True)
class PoolUse:
    """Connections of the pool: in use, idle, and at most (None: unbounded)."""

    in_use: int
    idle: int
    size: int | None


@dataclass(frozen=True)
class Upgrade:
    """What became of an older schema, or of none."""

    before: str | None
    """The newest migration until then; None: no registry existed."""
    after: str
    copy: Path | None
    """The copy of a SQLite database as it was before, beside it."""
    shuts_out: bool
    """Whether programs of the schema before can't use the database any more."""

    def told(self, where: str) -> str:
        """What whoever uses the registry ``where`` has to know of it."""
        said = f"The registry in {where} was upgraded from schema {self.before} to {self.after}"
        if self.shuts_out:
            said += f", which programs of {self.before} can't use"
        return said if self.copy is None else f"{said}; its database of before is {self.copy}"


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite database file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


class Database:
    """A catalogue's database. Opening one touches nothing.

    Every error of the database leaves as a `RegistryError`: ``busy``, ``disk_full``, ``read_only``, ``schema_newer``,
    ``schema_older``, ``corrupt`` or ``unavailable``. Sessions see what their rights allow.

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
        path = self._path
        self._begin_reading = postgresql.begin_reading if path is None else sqlite.begin_reading
        self._connections = Connections(
            engine, None if path is None else lambda: sqlite.connect_to_read(path, busy_timeout)
        )
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error

    def _open(self, url: URL) -> Engine:
        if self._path is not None:
            with self._mapping_errors():
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
        """The database as messages show it: a file, or a URL without its password."""
        return self._where

    @contextmanager
    def read(self, rights: Rights = UNLIMITED) -> Iterator[Session]:
        """A read transaction: one snapshot for all queries, read-only.

        Raises:
            NotFoundError: no registry exists yet.
        """
        if not self._checked:
            self._check_before_reading()
        frozen = sqlite.stamp(self._path) if self._path is not None and sqlite.is_frozen(self._path) else None
        with (
            translated(self._where, self._folder),
            reading_session(self._reader, self._begin_reading, rights) as session,
        ):
            yield session
        if frozen is not None and self._path is not None and frozen != sqlite.stamp(self._path):
            problem = f"The database {self._where} was changed while it was read: try again."
            raise errors.placeless(UnavailableError(problem, code="busy"))

    def rows(self, query: Prepared, values: Mapping[str, object], rights: Rights = UNLIMITED) -> Rows:
        """The rows of one prepared query, without a session: their columns are attributes.

        Raises:
            NotFoundError: no registry exists yet.
        """
        return self.ask(lambda reader: reader.rows(query, values), rights)

    def ask(self, work: Callable[[Reader], T], rights: Rights = UNLIMITED) -> T:
        """The result of ``work``, which asks one prepared query; it is called again when the connection fails.

        Raises:
            NotFoundError: no registry exists yet.
        """
        if not self._checked:
            self._check_before_reading()
        if self._path is not None and sqlite.is_frozen(self._path):
            return self.snapshot(work, rights)
        try:
            return self._connections.ask(work, rights)
        except self._driver_error:  # SQLAlchemy finds out what is wrong with it, and with the other connections
            with translated(self._where, self._folder):
                return retried(partial(self._ask, work, rights))

    def _ask(self, work: Callable[[Reader], T], rights: Rights) -> T:
        with self._asker.connect() as connection:
            return work(reader_on(connection, rights))

    def snapshot(self, work: Callable[[Reader], T], rights: Rights = UNLIMITED) -> T:
        """The result of ``work``, whose prepared queries see one snapshot.

        Raises:
            NotFoundError: no registry exists yet.
        """
        with self.read(rights) as session:
            return work(reading(session))

    def change(self, work: Callable[[Session], T], *, rights: Rights = UNLIMITED) -> T:
        """The result of ``work``, done in one write transaction.

        ``work`` is retried in a new session when its transaction lost a race or its connection broke before the commit;
        so it must do nothing but read and change the database. When the connection breaks during the commit, its
        outcome is unknown, and `UnavailableError` says so.
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
                unknown = errors.committing(error, self._where)
                if unknown is None:
                    raise
                raise unknown from error
            return answer

    @contextmanager
    def write(self, rights: Rights = UNLIMITED) -> Iterator[Session]:
        """A write transaction without retry, committed when the block is left and rolled back when it raises.

        An embedded database is made before the first one. Services use `change`.
        """
        if not self._checked:
            self._check_before_writing()
        with translated(self._where, self._folder), in_session(self._writer, rights) as session:
            yield session
            session.commit()

    def ping(self) -> None:
        """Liveness check: raises unless the database responds and its schema fits this program."""
        state = self.schema()
        if state is not Schema.CURRENT:
            raise self._unfit()

    def pool(self) -> PoolUse:
        """The connection pool of this process."""
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
        """The newest migration that was applied; None: no registry exists yet."""
        if not self._is_there():
            return None
        with translated(self._where, self._folder), connected(self._reader) as connection:
            return fitting.version_on(connection)

    def _is_there(self) -> bool:
        with self._mapping_errors():
            return self._path is None or self._path.exists()

    def _mapping_errors(self) -> ErrorMapping[str]:
        """Map errors of the operating system and the driver to errors of this package."""
        return ErrorMapping(from_system, self._where)

    def prepare(self) -> Upgrade | None:
        """Create or upgrade the schema; a SQLite database is backed up next to it before an upgrade.

        Safe to call concurrently; an interrupted call changes nothing. Nothing that reads calls it, and nothing that
        was not requested by whoever owns the database: programs of its schema may be using it.

        Returns:
            What was done; None: the schema fits, maybe since another process upgraded it just now.
        """
        done = None
        if self.schema() is not Schema.CURRENT:
            with self.migrating() as connection:
                done = self._upgraded(connection)
        self._checked = True
        return done

    def _upgraded(self, connection: Connection) -> Upgrade | None:
        state = fitting.compare(connection, self._where)
        if state is Schema.CURRENT:
            return None
        before = fitting.version_on(connection)
        copy = self._keep_copy(self._path, before) if state is Schema.OLDER and self._path is not None else None
        migrations.upgrade(connection)
        after = migrations.HISTORY[-1]
        return Upgrade(before, after, copy, fitting.shuts_out(connection, before, after))

    def prepare_to_write(self) -> Upgrade | None:
        """What `prepare` does, for an embedded database: a team's is upgraded by its operator alone."""
        return None if self._checked or self._path is None else self.prepare()

    def create(self) -> None:
        """Make an embedded database that does not exist yet; one that exists is left as it is."""
        if self.schema() is Schema.ABSENT:
            self.prepare()

    def _keep_copy(self, path: Path, version: str | None) -> Path:
        target = path.with_name(f"{path.name}.before-{migrations.HISTORY[-1]}-from-{version}")
        with self._mapping_errors():
            sqlite.copy(path, target, self._busy_timeout)
        return target

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """The connection and transaction of a migration; one at a time across all machines."""
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
                if errors.sqlstate(error) != "55P03":
                    raise
                raise UnavailableError(
                    f"The database {self._where} could not be upgraded, because its tables were locked or another "
                    "upgrade was running for too long: nothing was changed. Try again when the database is less busy.",
                    code="busy",
                ) from error

    def _wait_for_turn(self, connection: Connection) -> None:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text(f"SET LOCAL lock_timeout = '{int(self._busy_timeout * 1000)}ms'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})

    def dispose(self) -> None:
        """Close all connections."""
        self._connections.close()
        self._engine.dispose()

    def _migration_engine(self) -> Engine:
        path = self._path
        if path is None:
            return self._writer
        with self._mapping_errors():
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
            raise NotFoundError(f"There is no registry at {self._where} yet: `registry base add` creates one.")
        if state is not Schema.CURRENT:
            raise self._unfit()
        self._checked = True

    def _check_before_writing(self) -> None:
        # What is written beside a reading (uses, stored answers) comes here, too: it must upgrade nothing.
        state = self.schema()
        if state is Schema.ABSENT and self._path is not None:
            self.prepare()
        elif state is not Schema.CURRENT:
            raise self._unfit()
        self._checked = True

    def _unfit(self) -> UnavailableError:
        if self._path is None:
            problem = f"The database {self._where} has no schema yet or an older one: run `registry db upgrade`."
        else:
            upgrade = command("registry", "db", "upgrade", "--url", self._path.parent)
            problem = (
                f"The registry in {self._path.parent} has the schema {self.version()} of an older program, and this "
                f"one needs {migrations.HISTORY[-1]}: {upgrade} upgrades it, after copying its database."
            )
        return errors.placeless(UnavailableError(problem, code="schema_older"))
