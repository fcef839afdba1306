"""How transactions begin: with a statement of their own, which also shows whether the connection is still alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.catalogue.sight import open_session
from registry.rights import Rights

T = TypeVar("T")
Mode = Literal["read", "write", "single"]

_MODE: Final = "registry_mode"


def mode(engine: Engine, kind: Mode) -> Engine:
    """The same engine for transactions of one kind; ``single`` is for one query, which needs none around it."""
    return engine.execution_options(**{_MODE: kind})


def begin_explicitly(engine: Engine, begin: Callable[[Connection, Mode], None]) -> None:
    """Let every transaction of an engine begin with what ``begin`` sends, by its mode; no mode means ``write``."""

    def begun(connection: Connection) -> None:
        begin(connection, connection.get_execution_options().get(_MODE, "write"))

    event.listen(engine, "begin", begun)


def connected(engine: Engine) -> Connection:
    """A connection in a transaction."""

    def begin() -> Connection:
        connection = engine.connect()
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return connection

    return _on_a_living_connection(begin)


def in_session(engine: Engine, rights: Rights) -> Session:
    """A session in a transaction, which sees what ``rights`` allow."""

    def begin() -> Session:
        session = open_session(engine, rights)
        try:
            session.connection()
        except BaseException:
            session.close()
            raise
        return session

    return _on_a_living_connection(begin)


def _on_a_living_connection(begin: Callable[[], T]) -> T:
    # The pool's connections die when the server is restarted. One that did is found here, where nothing was done on it
    # yet, and with it the others are left; asking each before its use would cost a round trip.
    try:
        return begin()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return begin()
