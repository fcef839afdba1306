"""Prepared reads: a query of columns is compiled once for a database and for rights, and then run by the driver itself.

A lookup by an index takes microseconds; a session, and finding a query's text each time, take hundreds. The visibility
filter is that of sessions: `registry.catalogue.database.visibility` adds it before a query is compiled.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic_core import from_json
from sqlalchemy import JSON, Connection, Engine, Float, PoolProxiedConnection, Select
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from registry.catalogue.database.visibility import filtered, rights_of
from registry.rights import Rights

Processor = Callable[[Any], Any]
Rows = Sequence[Any]
T = TypeVar("T")
_READER: Final = "registry_reader"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A query that is run again and again.

    Args:
        make: the query, whose columns have names of their own, and whose lists have a fixed length.
        ignore_rights: rows outside the rights are not hidden by the filter: ``make`` hides what has to be.
    """

    make: Callable[[Rights], Select[*tuple[Any, ...]]]
    ignore_rights: bool = False


@dataclass(frozen=True)
class Statement:
    """A query as the driver takes it."""

    text: str
    names: tuple[str, ...]
    """Of its parameters, in their order."""
    constants: Mapping[str, Any]
    bound: Mapping[str, Processor]
    """What makes the driver's values of parameters, if it is needed."""
    positional: bool
    read: tuple[Processor | None, ...]
    """What makes a column's value of the driver's."""
    row: type[Any]

    def parameters(self, values: Mapping[str, object]) -> Any:
        """The parameters of one execution."""
        given = {**self.constants, **values}
        for name, process in self.bound.items():
            given[name] = process(given[name])
        return tuple(given[name] for name in self.names) if self.positional else given

    def rows(self, found: Sequence[Sequence[Any]]) -> Rows:
        """Rows of the driver, with named columns."""
        make, read = self.row._make, self.read
        if not any(read):
            return [make(one) for one in found]
        return [make([value if f is None else f(value) for f, value in zip(read, one, strict=True)]) for one in found]


@lru_cache(maxsize=4096)
def statement(query: Prepared, dialect: Dialect, rights: Rights) -> Statement:
    """The query for a database and rights."""
    made = filtered(query.make(rights), rights, ignore_rights=query.ignore_rights)
    compiled = made.compile(dialect=dialect)
    types = {bind.key: bind.type for bind in compiled.binds.values()}
    processors = {name: kind.dialect_impl(dialect).bind_processor(dialect) for name, kind in types.items()}
    names = [str(column.key) for column in made.selected_columns]  # a tuple with names refuses to have one twice
    return Statement(
        text=str(compiled),
        names=tuple(compiled.positiontup or ()),
        constants={name: value for name, value in compiled.params.items() if value is not None},
        bound={name: process for name, process in processors.items() if process is not None},
        positional=compiled.positional,
        read=tuple(_processor(one.type, dialect) for one in made.selected_columns),
        row=namedtuple("Row", names),
    )


def _document(value: str | None) -> Any:
    """The document of a text of JSON; None of NULL."""
    return None if value is None else from_json(value)


def _processor(kind: TypeEngine[Any], dialect: Dialect) -> Processor | None:
    if isinstance(kind, Float):  # drivers give floats themselves
        return None
    if isinstance(kind, JSON) and dialect.name == "sqlite":  # the type's own takes five times as long
        return _document
    return kind.dialect_impl(dialect).result_processor(dialect, None)


class Reader:
    """Reads by prepared queries on one connection, with the visibility filter of some rights."""

    def __init__(self, engine: Engine, run: Callable[[str, Any], Rows], rights: Rights) -> None:
        self._dialect = engine.dialect
        self._run = run
        self.rights: Final = rights

    def rows(self, query: Prepared, values: Mapping[str, object]) -> Rows:
        """All rows of a query; their columns are attributes."""
        found = statement(query, self._dialect, self.rights)
        return found.rows(self._run(found.text, found.parameters(values)))

    def first(self, query: Prepared, values: Mapping[str, object]) -> Any:
        """The first row of a query; None without one."""
        return next(iter(self.rows(query, values)), None)


def note(engine: Engine, cursor: Any, text: str, parameters: Any = None) -> None:
    """Tell SQLAlchemy's event of a statement that the driver is given."""
    for one in engine.dispatch.before_cursor_execute:
        one(None, cursor, text, parameters, None, False)


def run_on(connection: Any, engine: Engine) -> Callable[[str, Any], Rows]:
    """What runs a statement on a driver's connection, without what SQLAlchemy does around it; its event reports it."""

    def run(text: str, parameters: Any) -> Rows:
        cursor = connection.cursor()
        note(engine, cursor, text, parameters)
        cursor.execute(text, parameters)
        found: Rows = cursor.fetchall()
        return found

    return run


def reading(session: Session) -> Reader:
    """A reader in the transaction of a session, with its rights. What the session has not written is written first."""
    session.flush()
    found: Reader | None = session.info.get(_READER)
    if found is None:
        bind = session.bind
        connection = bind if isinstance(bind, Connection) else session.connection()
        fairy = connection.connection
        found = read_on(session, connection.engine, fairy, connection.invalidate)
    return found


def read_on(
    session: Session, engine: Engine, fairy: PoolProxiedConnection, invalidate: Callable[[BaseException], None]
) -> Reader:
    """Let a session read by prepared queries on a connection that is in its transaction."""
    below = fairy.dbapi_connection
    run, failure = run_on(below, engine), engine.dialect.loaded_dbapi.Error

    def told(text: str, parameters: Any) -> Rows:
        try:
            return run(text, parameters)
        except failure as error:
            raise of_sqlalchemy(engine, below, error, invalidate, text, parameters) from error

    made = session.info[_READER] = Reader(engine, told, rights_of(session))
    return made


def of_sqlalchemy(
    engine: Engine,
    below: Any,
    error: Any,
    invalidate: Callable[[BaseException], None],
    text: str,
    parameters: Any = None,
) -> Exception:
    """The error of SQLAlchemy for one of the driver, whose connection is given up if it is lost."""
    dialect, failure = engine.dialect, engine.dialect.loaded_dbapi.Error
    lost = dialect.is_disconnect(error, below, None)
    if lost:
        invalidate(error)
    told: Exception = DBAPIError.instance(text, parameters, error, failure, engine.hide_parameters, lost, dialect)
    return told


def reader_on(connection: Connection, rights: Rights) -> Reader:
    """A reader on a connection of SQLAlchemy, which finds out what is wrong when a statement fails."""

    def run(text: str, parameters: Any) -> Rows:
        return connection.exec_driver_sql(text, parameters).all()

    return Reader(connection.engine, run, rights)


class Connections:
    """Connections of one database for prepared reads.

    Args:
        engine: of the database; its pool is used, unless ``connect`` is given.
        connect: opens a connection that costs nothing while it is idle, and refuses changes.
    """

    def __init__(self, engine: Engine, connect: Callable[[], Any] | None) -> None:
        self._engine = engine
        self._connect = connect
        self._idle: list[Any] = []

    def ask(self, work: Callable[[Reader], T], rights: Rights) -> T:
        """The result of ``work``; a connection on which it failed is closed."""
        if self._connect is None:
            fairy = self._engine.raw_connection()
            try:
                answer = work(Reader(self._engine, run_on(fairy.dbapi_connection, self._engine), rights))
            except BaseException:
                fairy.invalidate()
                raise
            fairy.close()
            return answer
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            answer = work(Reader(self._engine, run_on(connection, self._engine), rights))
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            self._idle.pop().close()
