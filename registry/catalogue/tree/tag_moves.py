"""What the tags of an adapter pointed at over time, from its events."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from sqlalchemy import Select, bindparam, or_, select, union_all
from sqlalchemy.orm import Session

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import IS_DELETION, Adapter, EventRecord, Revision, Tag
from registry.catalogue.tree.revisions import RevisionRow
from registry.reference import Path
from registry.schemas.around import TagHistory, TagMove

LISTED: Final = 20
"""Tags of a revision, moves of a tag, and removed tags of an adapter."""
OF_ADAPTER: Final = 100
"""Tags of an adapter."""
_READ: Final = 1000
"""Events of an adapter that histories are made of; older ones are not looked at."""


def histories(session: Session, row: RevisionRow, tags: Collection[str]) -> tuple[TagHistory, ...]:
    """The histories of the tags that point at a revision (``tags``) or did, by name; of many, those that do first."""
    moves: dict[str, list[TagMove]] = {tag: [] for tag in tags}
    for tag, move in _moves(reading(session).rows(_LATEST, _values(Path.parse(row.path)))):
        moves.setdefault(tag, []).append(move)
    found = [
        # A move that no event tells of (a database of an early version) leaves what points at it now.
        TagHistory(tag=tag, points_at=row.reference if tag in tags else own[0].new, moves=tuple(own[:LISTED]))
        for tag, own in moves.items()
        if tag in tags or any(row.reference in {move.old, move.new} for move in own)
    ]
    found.sort(key=lambda one: (one.tag not in tags, one.tag))
    return tuple(sorted(found[:LISTED], key=lambda one: one.tag))


def of_adapter(session: Session, path: Path) -> tuple[TagHistory, ...]:
    """The tags of an adapter with their moves, by name, at most `OF_ADAPTER`; then those that were removed."""
    query = select(Tag.name, Revision.number).join(Revision, Revision.id == Tag.revision_id)
    query = query.join(Adapter, Adapter.id == Tag.adapter_id).where(Adapter.path == str(path))
    rows = session.execute(query.order_by(Tag.name).limit(OF_ADAPTER))
    named: dict[str, str | None] = {tag: f"{path}@{number}" for tag, number in rows}
    moves: dict[str, list[TagMove]] = {tag: [] for tag in named}
    unlisted: set[str] = set()
    for tag, move in _moves(reading(session).rows(_LATEST, _values(path))):
        if tag not in moves and move.new is not None:  # its newest move: it is there, and not among the first
            unlisted.add(tag)
        if tag not in unlisted:
            moves.setdefault(tag, []).append(move)
    gone = sorted(moves.keys() - named.keys())[:LISTED]
    histories = ((tag, named.get(tag), moves[tag][:LISTED]) for tag in (*named, *gone))
    return tuple(TagHistory(tag=tag, points_at=at, moves=tuple(own)) for tag, at, own in histories)


def last(session: Session, path: Path, tag: str) -> TagMove | None:
    """The last move of a tag, by itself or with the deletion or restoring of its revision; None: it never was."""
    return next((move for name, move in _moves(session.execute(_events(), _values(path))) if name == tag), None)


def _moves(events: Iterable[Any]) -> Iterator[tuple[str, TagMove]]:
    """Moves of an adapter's tags, newest first, each with its tag."""
    for at, action, subject, actor, detail in events:
        for tag, old, new in _changes(action, subject, detail):
            yield tag, TagMove(at=at, actor=actor, old=old, new=new)


def _changes(action: str, subject: str, detail: dict[str, Any]) -> Iterator[tuple[str, str | None, str | None]]:
    if action in {"tag", "untag"}:
        yield detail["tag"], detail.get("old"), detail.get("new")
        return
    for tag in detail.get("tags") or ():
        yield (tag, subject, None) if action == "delete" else (tag, None, subject)


def _events(limit: int | None = None) -> Select[*tuple[Any, ...]]:
    action, subject = EventRecord.action, EventRecord.subject
    columns = (EventRecord.id, EventRecord.at, action, subject, EventRecord.actor, EventRecord.detail)
    moved = select(*columns).where(or_(action == "tag", action == "untag"), subject == bindparam("path"))
    # A tag also goes with the deletion of its revision, and comes back with it. Of a revision: see `is_revision_of`.
    taken = select(*columns).where(IS_DELETION, subject > bindparam("after"), subject < bindparam("before"))
    # Each by itself, since each has an index: of both together, all would be read and put in order.
    newest = (one.order_by(EventRecord.id.desc()).limit(limit).subquery() for one in (moved, taken))
    both = union_all(*(select(one) for one in newest)).subquery()
    shown = (both.c.at, both.c.action, both.c.subject, both.c.actor, both.c.detail)
    return select(*shown).order_by(both.c.id.desc()).limit(limit)


def _values(path: Path) -> dict[str, str]:
    return {"path": str(path), "after": f"{path}@", "before": f"{path}A"}


_LATEST: Final = Prepared(lambda _: _events(_READ))
