"""How PostgreSQL is connected to: by psycopg, with limits on every wait, and never with a password in a message."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine

from registry.catalogue.beginning import Mode, begin_explicitly

POOL_SIZE: Final = 10  # connections that stay open
POOL_MOST: Final = 40  # as many as a service has threads
_POOL_WAIT: Final = 10.0  # seconds
_CONNECT_TIMEOUT: Final = 5  # seconds
_SETTINGS: Final = {
    "timezone": "UTC",  # in another one, times at both ends of the calendar can't be read
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",  # a replica that hangs must not hold its locks for ever
}
# One snapshot for all queries of a request, as SQLite gives it.
_BEGIN: Final[dict[Mode, str]] = {"read": "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", "write": "BEGIN"}
_CONNECTION: Final = {
    "application_name": "adapter-registry",
    "connect_timeout": _CONNECT_TIMEOUT,
    # A server that is gone without a word is noticed within a minute.
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


def with_driver(url: URL) -> URL:
    """``postgresql://``, and ``postgres://`` as some hosters write it, with psycopg."""
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgresql", "postgres"} else url


def shown(url: URL) -> str:
    """A URL as messages may show it: without a password, wherever it stood."""
    host = url.host or url.query.get("host")
    plain = URL.create("postgresql", url.username, None, host if isinstance(host, str) else None, url.port)
    return plain.set(database=url.database or "").render_as_string()


def engine(url: URL) -> Engine:
    """An engine for a service of 40 threads. What the URL's own query says comes before what is set here."""
    given: dict[str, Any] = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    own = url.query.get("options")
    settings = [f"-c {name}={value}" for name, value in _SETTINGS.items()]
    given["options"] = " ".join([*settings, *([own] if isinstance(own, str) else own or ())])
    made = create_engine(
        url.difference_update_query(["options"]),
        connect_args=given,
        hide_parameters=True,  # what is logged of an error has no values
        isolation_level="AUTOCOMMIT",  # transactions begin as `_begin` says
        pool_size=POOL_SIZE,
        max_overflow=POOL_MOST - POOL_SIZE,
        pool_timeout=_POOL_WAIT,
        pool_recycle=1800,
    )
    begin_explicitly(made, _begin)
    return made


def _begin(connection: Connection, mode: Mode) -> None:
    if mode in _BEGIN:
        connection.exec_driver_sql(_BEGIN[mode])
