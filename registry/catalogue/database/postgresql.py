"""Connections to PostgreSQL: psycopg, timeouts on every wait, and no password in a message."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, create_engine, event
from sqlalchemy.engine import ExecutionContext

from registry.catalogue.database.prepared import note
from registry.catalogue.database.transactions import PLANNED, Mode, begin_explicitly

POOL_SIZE: Final = 10  # connections that stay open
POOL_MOST: Final = 40  # as many as a service has threads
_POOL_WAIT: Final = 10.0  # seconds
_CONNECT_TIMEOUT: Final = 5  # seconds
_SETTINGS: Final = {
    "timezone": "UTC",  # in other time zones, the earliest and latest times can't be read
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",  # a replica that hangs must not keep its locks
}
# One snapshot for all queries of a request, as SQLite gives it.
_BEGIN: Final[dict[Mode, str]] = {"read": "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", "write": "BEGIN"}
_CONNECTION: Final = {
    "application_name": "adapter-registry",
    "connect_timeout": _CONNECT_TIMEOUT,
    # TCP keepalive: a silent server is noticed within a minute.
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


def with_driver(url: URL) -> URL:
    """The URL of psycopg for ``postgresql://``, and for ``postgres://`` as some hosters write it."""
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgresql", "postgres"} else url


def shown(url: URL) -> str:
    """A URL with its passwords redacted."""
    host = url.host or url.query.get("host")
    plain = URL.create("postgresql", url.username, None, host if isinstance(host, str) else None, url.port)
    return plain.set(database=url.database or "").render_as_string()


def engine(url: URL) -> Engine:
    """An engine for a service of 40 threads. The URL's own query overrides what is set here."""
    given: dict[str, Any] = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    own = url.query.get("options")
    settings = [f"-c {name}={value}" for name, value in _SETTINGS.items()]
    given["options"] = " ".join([*settings, *([own] if isinstance(own, str) else own or ())])
    made = create_engine(
        url.difference_update_query(["options"]),
        connect_args=given,
        hide_parameters=True,  # keeps values out of logged errors
        isolation_level="AUTOCOMMIT",  # transactions begin as `_begin` says
        pool_size=POOL_SIZE,
        max_overflow=POOL_MOST - POOL_SIZE,
        pool_timeout=_POOL_WAIT,
        pool_recycle=1800,
    )
    begin_explicitly(made, _begin)
    event.listen(made, "do_execute", _execute)
    return made


def _begin(connection: Connection, mode: Mode) -> None:
    if mode in _BEGIN:
        connection.exec_driver_sql(_BEGIN[mode])


def begin_reading(engine: Engine, connection: PoolProxiedConnection) -> None:
    """Begin a transaction for reading, by the driver itself."""
    cursor = connection.cursor()
    note(engine, cursor, _BEGIN["read"])
    cursor.execute(_BEGIN["read"])
    cursor.close()


def _execute(cursor: Any, statement: str, parameters: Any, context: ExecutionContext | None) -> bool:
    """Run a query that is planned for its values without preparing it; False: it is run as others are."""
    if context is None or not context.execution_options.get(PLANNED) or hasattr(cursor, "name"):
        return False  # one with a name, whose rows come in parts, prepares nothing
    cursor.execute(statement, parameters, prepare=False)
    return True
