"""How transactions begin, and how they are repeated when they lost a race.

An explicit statement begins each, which also checks that the connection is alive. Retries have backoff and jitter.
What has to hold of each row of a list is looked up in an index, row by row.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import Connection, Engine, PoolProxiedConnection, Select, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.errors import sqlstate
from registry.catalogue.database.prepared import of_sqlalchemy, read_on
from registry.catalogue.database.visibility import LateSession, open_session
from registry.rights import Rights

TRIES: Final = 12
_FIRST_PAUSE: Final = 0.01  # seconds, at most; it doubles
_LONGEST_PAUSE: Final = 0.5

# Of PostgreSQL: serialisation failure, deadlock, violated keys. SQLite has one writer at a time: no lost races.
_LOST_RACES: Final = frozenset(["40001", "40P01", "23505", "23503"])


def retried(attempt: Callable[[], T]) -> T:
    """The result of ``attempt``, which is called again after lost races, and once after a lost connection.

    Its transaction must not have been committed when it raises an error of the database.
    """
    connection_lost = False
    for tried in range(1, TRIES):
        try:
            return attempt()
        except StaleDataError:  # a row that was read is gone
            pass
        except DBAPIError as error:
            if error.connection_invalidated and not connection_lost:
                connection_lost = True
            elif sqlstate(error) not in _LOST_RACES:
                raise
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tried)
        time.sleep(random.uniform(0, longest))  # noqa: S311 - jitter, nothing secret
    return attempt()


def finds(query: Select[Any]) -> ColumnElement[bool]:
    """The condition that a query, correlated with the one around it, has a row.

    It is "exists", but with a limit: without, PostgreSQL reads all that the query may find at once, wherever it expects
    many rows around it, also if a page needs few.
    """
    return query.limit(1).scalar_subquery().is_not(None)


T = TypeVar("T")
Mode = Literal["read", "write", "single", "begun"]
BeginReading = Callable[[Engine, PoolProxiedConnection], None]

PLANNED: Final = "registry_planned"
"""The option of connections whose queries PostgreSQL plans for the values in them."""

_MODE: Final = "registry_mode"


def mode(engine: Engine, kind: Mode) -> Engine:
    """The engine for transactions of one kind; ``single`` is for one query without a transaction, ``begun`` for one
    begun through the driver.
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
    itself is used.
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
    # The pool's connections die when the server is restarted. One that did is found here, if nothing was done on it
    # yet, and with it the others are left; asking each before its use would cost a round trip.
    try:
        return begin()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return begin()
