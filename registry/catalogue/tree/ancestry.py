"""What ancestors say about revisions: whether they are behind, and whether the lineage has a retraction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import Adapter, Revision
from registry.schemas import Retraction

T = TypeVar("T")

# Made once: each new alias makes the expressions of its columns anew, which takes longer than the query.
_OTHER, _ABOVE, _ANY = aliased(Revision), aliased(Revision), aliased(Adapter)


@dataclass(frozen=True)
class Ancestry:
    """About some revisions and their ancestors, by key."""

    behind: frozenset[int]
    retracted: dict[int, Retraction]  # of itself, or of the nearest ancestor that was


def newest_number(adapter_id: ColumnElement[int] | InstrumentedAttribute[int]) -> ColumnElement[int]:
    """The number of an adapter's newest revision, as an expression."""
    return _newest(adapter_id).scalar_subquery()


def _newest(adapter_id: ColumnElement[int] | InstrumentedAttribute[int]) -> Select[int]:
    # Not the maximum: where deleted ones are left out, databases read all revisions for it.
    newest = select(_OTHER.number).where(_OTHER.adapter_id == adapter_id)
    return newest.order_by(_OTHER.number.desc()).limit(1)


def ancestry(session: Session, chosen: Select[int] | Sequence[int]) -> Ancestry:
    """The ancestry of some revisions: their keys, or a query that gives them."""
    return read(session, session.execute(found(chosen)))


def found(chosen: Select[int] | Sequence[int]) -> Select[*tuple[Any, ...]]:
    """The query for some revisions, by their keys or a query that gives them, and all that is above them."""
    columns = (Revision.id, Revision.parent_id, Revision.adapter_id, Revision.number, Revision.retracted_at)
    found = select(*columns).where(Revision.id.in_(chosen)).cte("found", recursive=True)
    above = (_ABOVE.id, _ABOVE.parent_id, _ABOVE.adapter_id, _ABOVE.number, _ABOVE.retracted_at)
    found = found.union(select(*above).join(found, _ABOVE.id == found.c.parent_id))
    # Of an adapter that the session does not see, no newer revision is known. Nothing is joined with the recursion: of
    # its few rows, databases expect so many that they read whole tables for them.
    newest = _newest(Adapter.id).join(Adapter, Adapter.id == found.c.adapter_id).scalar_subquery().label("newest")
    return select(*found.c, newest)


def read(session: Session, rows: Iterable[Any]) -> Ancestry:
    """The ancestry that the rows of `found` tell of."""
    parents: dict[int, int | None] = {}
    outdated: dict[int, bool] = {}
    withdrawn: list[int] = []
    for row in rows:
        parents[row.id] = row.parent_id
        outdated[row.id] = row.newest is not None and row.number < row.newest
        if row.retracted_at is not None:
            withdrawn.append(row.id)
    behind = _inherited(parents, lambda _, parent, above: parent is not None and (outdated[parent] or bool(above)))
    own = _retractions(session, withdrawn)
    retracted = _inherited(parents, lambda key, _, above: own.get(key, above)) if own else {}
    return Ancestry(
        frozenset(key for key, is_behind in behind.items() if is_behind),
        {key: retraction for key, retraction in retracted.items() if retraction is not None},
    )


def _inherited(
    parents: dict[int, int | None], of: Callable[[int, int | None, T | None], T | None]
) -> dict[int, T | None]:
    """Fold ``of`` (key, parent, the parent's value) over a forest, ancestors first."""
    said: dict[int, T | None] = {}
    for key in parents:
        waiting: list[int] = []
        at: int | None = key
        while at is not None and at not in said:
            waiting.append(at)
            at = parents[at]
        for one in reversed(waiting):
            parent = parents[one]
            said[one] = of(one, parent, None if parent is None else said[parent])
    return said


def _retractions(session: Session, keys: list[int]) -> dict[int, Retraction]:
    if not keys:
        return {}
    # A retracted ancestor is named, whether it is visible or not: it is why nothing is fetched.
    query = select(Revision, _ANY.path).join(_ANY, _ANY.id == Revision.adapter_id).where(Revision.id.in_(keys))
    found = {}
    for row, path in session.execute(query):
        retraction = retraction_of(row, path)
        if retraction is not None:
            found[row.id] = retraction
    return found


def retraction_of(row: Revision | Row[*tuple[Any, ...]], path: str) -> Retraction | None:
    """The retraction of the revision itself, from its record or the columns of that name."""
    if row.retracted_at is None:
        return None
    return Retraction(
        reference=f"{path}@{row.number}",
        reason=row.retracted_reason or "",
        actor=row.retracted_by or "",
        at=row.retracted_at,
    )
