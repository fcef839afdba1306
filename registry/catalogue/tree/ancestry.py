"""What ancestors and sources say about revisions: whether they are behind, and whether they contain a retracted one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, TypeVar

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import Adapter, Revision, RevisionSource
from registry.catalogue.database.visibility import rights_of
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree.old_names import visible_names
from registry.reference import Path, Reference
from registry.rights import Rights
from registry.schemas import Retraction

T = TypeVar("T")

# Made once: each new alias makes the expressions of its columns anew, which takes longer than the query.
_OTHER, _ABOVE, _ANY = aliased(Revision), aliased(Revision), aliased(Adapter)


@dataclass(frozen=True)
class Ancestry:
    """About some revisions and their ancestors, by key."""

    behind: frozenset[int]
    retracted: dict[int, Retraction]  # of itself, of a source, or of the nearest ancestor of which it holds


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
    of = (Revision.id, Revision.parent_id, Revision.adapter_id, Revision.number)
    columns = (*of, Revision.retracted_at, Revision.combined)
    found = select(*columns).where(Revision.id.in_(chosen)).cte("found", recursive=True)
    of_above = (_ABOVE.id, _ABOVE.parent_id, _ABOVE.adapter_id, _ABOVE.number)
    above = (*of_above, _ABOVE.retracted_at, _ABOVE.combined)
    found = found.union(select(*above).join(found, _ABOVE.id == found.c.parent_id))
    # Of an adapter that the session does not see, no newer revision is known. Nothing is joined with the recursion: of
    # its few rows, databases expect so many that they read whole tables for them.
    newest = _newest(Adapter.id).join(Adapter, Adapter.id == found.c.adapter_id).scalar_subquery().label("newest")
    return select(*found.c, newest)


def read(session: Session, rows: Iterable[Any]) -> Ancestry:
    """The ancestry that the rows of `found` describe."""
    parents: dict[int, int | None] = {}
    outdated: dict[int, bool] = {}
    withdrawn: list[int] = []
    combined: list[int] = []
    for row in rows:
        parents[row.id] = row.parent_id
        outdated[row.id] = row.newest is not None and row.number < row.newest
        if row.retracted_at is not None:
            withdrawn.append(row.id)
        if row.combined:
            combined.append(row.id)
    behind = _inherited(parents, lambda _, parent, above: parent is not None and (outdated[parent] or bool(above)))
    own = of_sources(session, combined) | _retractions(session, withdrawn)
    retracted = _inherited(parents, lambda key, _, above: own.get(key, above)) if own else {}
    return Ancestry(
        frozenset(key for key, is_behind in behind.items() if is_behind),
        {key: retraction for key, retraction in retracted.items() if retraction is not None},
    )


def of_sources(session: Session, combined: Sequence[int]) -> dict[int, Retraction]:
    """Of some combinations, by key: the retraction of what they are combined of, of the first source that has one.

    Combinations may be made of combinations, hundreds deep: each revision is read once, and nothing calls itself.
    """
    sources: dict[int, list[int]] = {}
    parents: dict[int, int | None] = {}
    withdrawn: list[int] = []
    waiting = set(combined)
    while waiting:
        sources |= _sources(session, waiting)
        unread = {source for key in waiting for source in sources.get(key, ())} - parents.keys()
        waiting = set()
        for row in (row for part in parts(sorted(unread)) for row in session.execute(found(part))):
            if row.id in parents:
                continue
            parents[row.id] = row.parent_id
            if row.retracted_at is not None:
                withdrawn.append(row.id)
            if row.combined and row.id not in sources:
                waiting.add(row.id)
    own = _retractions(session, withdrawn)
    if not own:
        return {}
    above = {key: [*sources.get(key, ()), *([] if parent is None else [parent])] for key, parent in parents.items()}
    said: dict[int, Retraction] = {}
    for key in TopologicalSorter(above).static_order():
        retraction = own.get(key) or _first(said, above[key])
        if retraction is not None:
            said[key] = retraction
    first = {key: _first(said, sources.get(key, ())) for key in combined}
    return _named(session, {key: retraction for key, retraction in first.items() if retraction is not None})


def _sources(session: Session, combined: Iterable[int]) -> dict[int, list[int]]:
    """The keys of what each combination is made of, in order."""
    found: dict[int, list[int]] = {}
    query = select(RevisionSource.revision_id, RevisionSource.source_id).order_by(RevisionSource.place)
    for part in parts(sorted(combined)):
        for row in session.execute(query.where(RevisionSource.revision_id.in_(part))):
            found.setdefault(row.revision_id, []).append(row.source_id)
    return found


def _named(session: Session, taken: dict[int, Retraction]) -> dict[int, Retraction]:
    """The same, where a source is named as it is called now, and one that the session may not see is not named.

    Of that, the combination is, with the reason: it stands on the row of the name that its source had.
    """
    taken = _called_now(session, taken)
    rights = rights_of(session)
    hidden = [key for key, why in taken.items() if not _may_name(rights, Reference.parse(why.reference).path)]
    query = select(Revision.id, Revision.number, _ANY.path).join(_ANY, _ANY.id == Revision.adapter_id)
    for row in (row for part in parts(hidden) for row in session.execute(query.where(Revision.id.in_(part)))):
        taken[row.id] = taken[row.id].model_copy(update={"reference": f"{row.path}@{row.number}"})
    return taken


def _called_now(session: Session, taken: dict[int, Retraction]) -> dict[int, Retraction]:
    """The same, each by the newest name of its adapter that the session sees."""
    paths = sorted({str(Reference.parse(why.reference).path) for why in taken.values()})
    query = select(_ANY.path, _ANY.renamed_to).where(_ANY.renamed_to.is_not(None))
    names = {
        row.path: row.renamed_to for part in parts(paths) for row in session.execute(query.where(_ANY.path.in_(part)))
    }
    there = visible_names(session, names.values()) if names else frozenset()
    said = {}
    for key, why in taken.items():
        path, at, number = why.reference.rpartition("@")
        now = names.get(path)
        said[key] = why if now not in there else why.model_copy(update={"reference": f"{now}{at}{number}"})
    return said


def _may_name(rights: Rights, path: Path) -> bool:
    # What lies above a scope is in the lineage of all that the scope shows.
    return rights.covers(path) or any(str(scope).startswith(f"{path}/") for scope in rights.scopes)


def _first(said: Mapping[int, Retraction], keys: Iterable[int]) -> Retraction | None:
    return next((said[key] for key in keys if key in said), None)


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
