"""The visibility filter of sessions: rows outside their rights and deleted rows are hidden from their queries.

Criteria of rights are added to every select of `Adapter`, `BaseModelRecord` or `EventRecord` themselves. To bypass
them, name an alias of `Adapter` (the parent of a revision), or pass `IGNORE_RIGHTS`, the execution option of queries
that walk a lineage, which composing needs whole.

Deleted revisions are hidden under every name, aliases included, and deleted base models only under their own: an alias
of `BaseModelRecord` is used to find who needs a blob. `INCLUDE_DELETED` is the execution option of the few queries that
undo or purge a deletion, or must not reuse a number. Neither option includes the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, cast

from sqlalchemy import Connection, Engine, Select, and_, event, false, or_, true
from sqlalchemy.orm import InstrumentedAttribute, ORMExecuteState, Session, with_loader_criteria
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import Adapter, BaseModelRecord, EventRecord, Revision
from registry.reference import Path
from registry.rights import UNLIMITED, Rights

IGNORE_RIGHTS: Final[dict[str, Any]] = {"registry_everything": True}
INCLUDE_DELETED: Final[dict[str, Any]] = {"registry_deleted": True}
FOR_ADMINS: Final = ("refused", "token create", "token revoke", "gc", "fsck")
"""Actions of events that only unscoped admins see."""

Subject = InstrumentedAttribute[str] | ColumnElement[str]
"""The column of what an event is about."""

_RIGHTS: Final = "registry_rights"


class FilteredSession(Session):
    """A session whose queries are filtered by its rights."""


class LateSession(FilteredSession):
    """A session whose connection is taken when the session itself is first used."""

    def __init__(self, connect: Callable[[], Connection], rights: Rights) -> None:
        super().__init__(expire_on_commit=False, info={_RIGHTS: rights})
        self._connect = connect

    def get_bind(self, *_: Any, **__: Any) -> Connection:
        return self._connect()


def open_session(bind: Engine | Connection, rights: Rights) -> Session:
    """A session whose queries are filtered by ``rights``."""
    return FilteredSession(bind, expire_on_commit=False, info={_RIGHTS: rights})


def rights_of(session: Session) -> Rights:
    """The rights of a session."""
    rights: Rights = session.info[_RIGHTS]
    return rights


def in_subtree(
    path: Path,
    column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None] | ColumnElement[str] = Adapter.path,
) -> ColumnElement[bool]:
    """The condition that an adapter is at a path or below it."""
    # "0" is the character after "/": a range uses the index on every database, LIKE does not.
    return or_(column == str(path), (column > f"{path}/") & (column < f"{path}0"))


def covers_path(rights: Rights, column: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """The condition that rights cover a path: for aliases of `Adapter`, to which no criterion is added."""
    return true() if rights.unlimited else or_(false(), *(in_subtree(scope, column) for scope in rights.scopes))


def covers_base(rights: Rights, column: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """The same of the name of a base model, for its aliases."""
    # No list: what is compiled once has a text of its own for each length.
    return true() if rights.unlimited else or_(false(), *(column == name for name in _bases(rights)))


def is_revision_of(path: Path, column: Subject) -> ColumnElement[bool]:
    """The condition that a reference ``PATH@...`` names a revision of an adapter."""
    # "A" is the character after "@".
    return (column > f"{path}@") & (column < f"{path}A")


def live(record: Any) -> ColumnElement[bool]:
    """The condition that a revision or a base model, or one under an alias, is not deleted."""
    # "It has a time of deletion" is not true. Said of the plain column, SQLite would take the index of `deleted_at`, by
    # which nearly all rows are found, and PostgreSQL would believe that few are.
    deleted = record.deleted_at == record.deleted_at
    return cast(ColumnElement[bool], deleted).is_not(true())


@event.listens_for(FilteredSession, "do_orm_execute")
def _narrow(state: ORMExecuteState) -> None:
    if not state.is_select:
        return
    options = state.execution_options
    rights = UNLIMITED if options.get("registry_everything") else rights_of(state.session)
    criteria = _criteria(rights, deleted_too=bool(options.get("registry_deleted")))
    if criteria:
        state.statement = state.statement.options(*criteria)


def filtered(
    query: Select[*tuple[Any, ...]], rights: Rights, *, ignore_rights: bool = False
) -> Select[*tuple[Any, ...]]:
    """A query as a session with these rights runs it, to be compiled without one."""
    return query.options(*_criteria(UNLIMITED if ignore_rights else rights, deleted_too=False))


@lru_cache(maxsize=1024)  # every query of every request of a token needs the same ones
def _criteria(rights: Rights, *, deleted_too: bool) -> tuple[Any, ...]:
    conditions: dict[Any, ColumnElement[bool]] = {}
    bases = [] if deleted_too else [live(BaseModelRecord)]
    if not rights.unlimited:
        conditions[Adapter] = covers_path(rights, Adapter.path)
        bases.append(covers_base(rights, BaseModelRecord.name))
        conditions[EventRecord] = and_(or_(false(), *subjects_in_scope(rights, EventRecord.subject)), _not_for_admins())
    elif rights.role != "admin":
        conditions[EventRecord] = _not_for_admins()
    if bases:
        conditions[BaseModelRecord] = and_(*bases)
    found = [with_loader_criteria(table, condition, include_aliases=False) for table, condition in conditions.items()]
    if not deleted_too:
        # The function, not what it says of `Revision`: that would not be about an alias that is joined.
        found.append(with_loader_criteria(Revision, live, include_aliases=True))
    return tuple(found)


def _bases(rights: Rights) -> list[str]:
    return sorted({scope.base for scope in rights.scopes})


def _not_for_admins() -> ColumnElement[bool]:
    return and_(*(EventRecord.action != action for action in FOR_ADMINS))


def subjects_in_scope(rights: Rights, subject: Subject) -> list[ColumnElement[bool]]:
    """The conditions of which events of what is seen meet one; each is one range of subjects."""
    return [
        *(subject == base for base in _bases(rights)),
        *(condition for scope in rights.scopes for condition in subjects_about(scope, subject)),
    ]


def subjects_about(path: Path, subject: Subject) -> list[ColumnElement[bool]]:
    """The same for a path, its revisions, and what is under it: subjects are names, paths, and references."""
    below = (subject > f"{path}/") & (subject < f"{path}0")
    return [subject == str(path), below, is_revision_of(path, subject)]
