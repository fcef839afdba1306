"""How transactions begin: by an explicit statement, which also checks that the connection is alive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.catalogue.database.visibility import open_session
from registry.rights import Rights

T = TypeVar("T")
Mode = Literal["read", "write", "single"]

PLANNED: Final = "registry_planned"
"""The option of connections whose queries PostgreSQL plans for the values in them."""

_MODE: Final = "registry_mode"


def mode(engine: Engine, kind: Mode) -> Engine:
    """The engine for transactions of one kind; ``single`` is for one query without a transaction."""
    return engine.execution_options(**{_MODE: kind})


def begin_explicitly(engine: Engine, begin: Callable[[Connection, Mode], None]) -> None:
    """Begin every transaction of an engine by ``begin``, with its mode; none means ``write``."""

    def begun(connection: Connection) -> None:
        begin(connection, connection.get_execution_options().get(_MODE, "write"))

    event.listen(engine, "begin", begun)


def plan_for_values(session: Session) -> None:
    """Let PostgreSQL plan each query of this transaction for the values in it, as a list's best plan depends on them.

    A query that a connection runs often gets one plan for all values, in which a scope is as wide as any.
    """
    session.connection().execution_options(**{PLANNED: True})


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
    """A session in a transaction, filtered by ``rights``."""

    def begin() -> Session:
        session = open_session(engine, rights)
        try:
            session.connection()
        except BaseException:
            session.close()
            raise
        return session

    return _on_a_living_connection(begin)


@contextmanager
def reading_session(engine: Engine, rights: Rights) -> Iterator[Session]:
    """A session in a read transaction, filtered by ``rights``. It joins the transaction only when it is asked itself:
    prepared reads need no more than the connection, and a session's own part takes longer than several of them.
    """
    with connected(engine) as connection:
        session = open_session(connection, rights)
        try:
            yield session
            connection.commit()  # psycopg forgets its prepared statements in a rollback
        finally:
            if session.in_transaction():
                session.close()


def _on_a_living_connection(begin: Callable[[], T]) -> T:
    # The pool's connections die when the server is restarted. One that did is found here, where nothing was done on it
    # yet, and with it the others are left; asking each before its use would cost a round trip.
    try:
        return begin()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return begin()
