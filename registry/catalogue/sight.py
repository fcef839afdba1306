"""What a session sees: rows outside its rights do not exist for any of its queries. The one place where that is so.

The criteria are put on every select that names `Adapter`, `BaseModelRecord` or `EventRecord` themselves. What has to
look at more says so: an alias of `Adapter` names the parent of a revision, and `EVERYTHING` is the execution option of
queries that walk a lineage, which composing needs whole.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Engine, and_, event, or_
from sqlalchemy.orm import InstrumentedAttribute, ORMExecuteState, Session, with_loader_criteria
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.tables import Adapter, BaseModelRecord, EventRecord
from registry.reference import Path
from registry.rights import Rights

EVERYTHING: Final[dict[str, Any]] = {"registry_everything": True}
FOR_ADMINS: Final = ("refused", "token create", "token revoke", "gc")
"""Actions of events that only admins without scopes see."""

_RIGHTS: Final = "registry_rights"


class SightedSession(Session):
    """A session that sees what its rights allow."""


def open_session(engine: Engine, rights: Rights) -> Session:
    """A session whose queries see what ``rights`` allow."""
    return SightedSession(engine, expire_on_commit=False, info={_RIGHTS: rights})


def rights_of(session: Session) -> Rights:
    """What the session was opened with."""
    rights: Rights = session.info[_RIGHTS]
    return rights


def at_and_under(
    path: Path, column: InstrumentedAttribute[str] | ColumnElement[str] = Adapter.path
) -> ColumnElement[bool]:
    """The condition that an adapter is at a path or below it."""
    # "0" is the character after "/": a range uses the index on every database, LIKE does not.
    return or_(column == str(path), (column > f"{path}/") & (column < f"{path}0"))


@event.listens_for(SightedSession, "do_orm_execute")
def _narrow(state: ORMExecuteState) -> None:
    if state.is_select and not state.execution_options.get("registry_everything"):
        criteria = _criteria(rights_of(state.session))
        if criteria:
            state.statement = state.statement.options(*criteria)


@lru_cache(maxsize=1024)  # every query of every request of a token needs the same ones
def _criteria(rights: Rights) -> tuple[Any, ...]:
    conditions: dict[Any, ColumnElement[bool]] = {}
    if not rights.unlimited:
        conditions[Adapter] = or_(*(at_and_under(scope) for scope in rights.scopes))
        conditions[BaseModelRecord] = BaseModelRecord.name.in_(_bases(rights))
        conditions[EventRecord] = and_(_in_scope(rights), _not_for_admins())
    elif rights.role != "admin":
        conditions[EventRecord] = _not_for_admins()
    return tuple(with_loader_criteria(table, found, include_aliases=False) for table, found in conditions.items())


def _bases(rights: Rights) -> list[str]:
    return sorted({scope.base for scope in rights.scopes})


def _not_for_admins() -> ColumnElement[bool]:
    return EventRecord.action.not_in(FOR_ADMINS)


def _in_scope(rights: Rights) -> ColumnElement[bool]:
    """Events of what is seen: subjects are names of base models, paths, and references ``PATH@...``."""
    conditions: list[ColumnElement[bool]] = [EventRecord.subject.in_(_bases(rights))]
    for scope in rights.scopes:
        conditions.append(at_and_under(scope, EventRecord.subject))
        # "A" is the character after "@".
        conditions.append((EventRecord.subject > f"{scope}@") & (EventRecord.subject < f"{scope}A"))
    return or_(*conditions)
