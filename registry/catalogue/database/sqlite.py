"""How SQLite is opened and prepared: explicit transactions, write-ahead log, read-only folders, a copy before a change.

https://docs.sqlalchemy.org/en/20/dialects/sqlite.html (transactions with pysqlite), https://sqlite.org/wal.html
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import stat
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, cast

from sqlalchemy import URL, Connection, Engine, NullPool, PoolProxiedConnection, QueuePool, create_engine

from registry.catalogue.database.transactions import Mode, begin_explicitly

_READS: Final = "registry_reads"  # of a connection: whether it refuses changes now


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def is_frozen(path: Path) -> bool:
    """Whether SQLite can't make the files beside the database that even reading a write-ahead log needs."""
    # Checked before every reading: first what is false nearly always.
    return not os.access(path.parent, os.W_OK) and path.exists() and not _log_of(path).exists()


def check_writable(path: Path) -> None:
    """Raise what the system would say of a database that can't be changed, or made, in its folder."""
    if is_frozen(path) or not (path.exists() or os.access(path.parent, os.W_OK)):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def stamp(path: Path) -> tuple[int, int, int, bool]:
    """What changes when a database in a frozen folder is written by somebody else."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size, state.st_ino, _log_of(path).exists()


def connect(path: Path, timeout: float, *, create: bool = False) -> sqlite3.Connection:
    """Open a connection on which nothing begins a transaction by itself.

    A missing file is only made with ``create``: reading must not leave an empty database behind.
    """
    mode = "rwc" if create else "ro&immutable=1" if is_frozen(path) else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA foreign_keys = ON")
    # The built-in one knows ASCII only.
    connection.create_function("lower", 1, _lower, deterministic=True)
    connection.create_function("sha256_hex", 1, _sha256_hex, deterministic=True)
    return connection


def connect_to_read(path: Path, timeout: float) -> sqlite3.Connection:
    """Open a connection that refuses changes."""
    connection = connect(path, timeout)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _lower(value: str | int | float | bytes | None) -> str | int | float | bytes | None:
    return value.lower() if isinstance(value, str) else value


def _sha256_hex(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def engine(path: Path, timeout: float) -> Engine:
    """An engine whose transactions begin as `begin` says.

    Connections to a frozen folder are not pooled, since what they may assume is decided when they are opened.
    """
    url = URL.create("sqlite", database=str(path))
    if is_frozen(path):
        made = create_engine(url, creator=lambda: connect(path, timeout), poolclass=NullPool, hide_parameters=True)
    else:
        # Threads of a server wait for SQLite's lock, not for a place in the pool.
        made = create_engine(
            url, creator=lambda: connect(path, timeout), poolclass=QueuePool, max_overflow=-1, hide_parameters=True
        )
    begin_explicitly(made, begin)
    return made


def begin(connection: Connection, mode: Mode) -> None:
    """Begin a transaction: IMMEDIATE for "write", else deferred and refusing changes."""
    if mode != "write":
        begin_reading(connection.engine, connection.connection)
        return
    # By the driver itself: these would take longer than a query otherwise.
    driver = _refusing(connection.connection, changes=False)
    driver.execute("BEGIN IMMEDIATE")


def begin_reading(_engine: Engine, connection: PoolProxiedConnection) -> None:
    """Begin a transaction that refuses changes."""
    _refusing(connection, changes=True).execute("BEGIN")


def _refusing(connection: PoolProxiedConnection, *, changes: bool) -> sqlite3.Connection:
    driver = cast(sqlite3.Connection, connection.driver_connection)
    if connection.info.get(_READS) is not changes:
        driver.execute(f"PRAGMA query_only = {'ON' if changes else 'OFF'}")
        connection.info[_READS] = changes
    return driver


def make_writable(path: Path, timeout: float) -> sqlite3.Connection:
    """Open the database for a change of its schema, making the file if it does not exist, with a write-ahead log.

    Foreign keys are off: if a migration makes a table anew, dropping the old one would empty what refers to it.
    """
    connection = connect(path, timeout, create=True)
    try:
        _use_log(connection, timeout)
        connection.execute("PRAGMA foreign_keys = OFF")
        # If a migration makes a table anew, triggers of other tables name it as before.
        connection.execute("PRAGMA legacy_alter_table = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_log(connection: sqlite3.Connection, timeout: float) -> None:
    # SQLite answers "locked" at once, without its busy timeout, when two processes do this at the same time.
    deadline = time.monotonic() + timeout
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            if mode != "wal":
                problem = sqlite3.OperationalError("this file system has no write-ahead log")
                problem.sqlite_errorname = "SQLITE_PROTOCOL"
                raise problem
            return


def copy(path: Path, target: Path, timeout: float) -> None:
    """Copy a database as of now; ``target`` appears when it is complete and on disk, and who may read it is decided
    by the mode of ``path``: the database has hashes of tokens.
    """
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.touch(0o600)
        partial.chmod(stat.S_IMODE(path.stat().st_mode))
        with closing(connect(path, timeout)) as source, closing(sqlite3.connect(partial)) as copied:
            source.backup(copied)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
