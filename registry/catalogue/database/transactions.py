"""How transactions begin: by an explicit statement, which also checks that the connection is alive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import Connection, Engine, PoolProxiedConnection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.catalogue.database.prepared import of_sqlalchemy, read_on
from registry.catalogue.database.visibility import LateSession, open_session
from registry.rights import Rights

T = TypeVar("T")
Mode = Literal["read", "write", "single", "begun"]
BeginReading = Callable[[Engine, PoolProxiedConnection], None]

PLANNED: Final = "registry_planned"
"""The option of connections whose queries PostgreSQL plans for the values in them."""

_MODE: Final = "registry_mode"


def mode(engine: Engine, kind: Mode) -> Engine:
    """The engine for transactions of one kind; ``single`` is for one query without a transaction, ``begun`` for one
    that the driver was told to begin.
    """
    return engine.execution_options(**{_MODE: kind})


def begin_explicitly(engine: Engine, begin: Callable[[Connection, Mode], None]) -> None:
    """Begin every transaction of an engine by ``begin``, with its mode; none means ``write``."""

    def begun(connection: Connection) -> None:
        kind: Mode = connection.get_execution_options().get(_MODE, "write")
        if kind != "begun":
            begin(connection, kind)

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
def reading_session(engine: Engine, begin: BeginReading, rights: Rights) -> Iterator[Session]:
    """A session in a read transaction, filtered by ``rights``. Prepared reads run on the driver's connection, where
    ``begin`` begins it; what SQLAlchemy makes around it takes longer than several of them, and is made when the session
    is asked itself.
    """
    transaction = _Reading(engine, begin)
    try:
        session = LateSession(transaction.connection, rights)
        read_on(session, engine, transaction.fairy, transaction.invalidate)
        try:
            yield session
            transaction.commit()  # psycopg forgets its prepared statements in a rollback
        finally:
            if session.in_transaction():
                session.close()
    finally:
        transaction.close()


class _Reading:
    """A read transaction on a connection of the pool."""

    def __init__(self, engine: Engine, begin: BeginReading) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        try:
            self.fairy = self._begun(begin)
        except engine.dialect.loaded_dbapi.Error:  # SQLAlchemy finds out what is wrong with it, and with the others
            self._connection = connected(engine)
            self.fairy = self._connection.connection

    def _begun(self, begin: BeginReading) -> PoolProxiedConnection:
        fairy = self._engine.raw_connection()
        try:
            begin(self._engine, fairy)
        except BaseException:
            fairy.invalidate()
            raise
        return fairy

    def connection(self) -> Connection:
        """SQLAlchemy's connection in this transaction."""
        if self._connection is None:
            made = Connection(self._engine, self.fairy).execution_options(**{_MODE: "begun"})
            made.begin()
            self._connection = made
        return self._connection

    def invalidate(self, error: BaseException) -> None:
        """The connection is lost."""
        (self._connection or self.fairy).invalidate(error)

    def commit(self) -> None:
        """End the transaction."""
        if self._connection is not None:
            self._connection.commit()
            return
        below: Any = self.fairy.dbapi_connection
        try:
            below.commit()
        except self._engine.dialect.loaded_dbapi.Error as error:
            raise of_sqlalchemy(self._engine, below, error, self.invalidate, "COMMIT") from error

    def close(self) -> None:
        """Give the connection back; what was not committed is rolled back."""
        (self._connection or self.fairy).close()


def _on_a_living_connection(begin: Callable[[], T]) -> T:
    # The pool's connections die when the server is restarted. One that did is found here, where nothing was done on it
    # yet, and with it the others are left; asking each before its use would cost a round trip.
    try:
        return begin()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return begin()
