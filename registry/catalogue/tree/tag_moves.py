"""What the tags of an adapter pointed at over time, from its events."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from sqlalchemy import Select, bindparam, or_, select
from sqlalchemy.orm import Session

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import IS_DELETION, EventRecord
from registry.catalogue.tree.revisions import RevisionRow
from registry.reference import Path
from registry.schemas.around import TagHistory, TagMove

LISTED: Final = 20
"""Tags of a revision, and moves of a tag."""
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


def _events() -> Select[*tuple[Any, ...]]:
    action, subject = EventRecord.action, EventRecord.subject
    moved = or_(action == "tag", action == "untag") & (subject == bindparam("path"))
    # A tag also goes with the deletion of its revision, and comes back with it. Of a revision: see `is_revision_of`.
    of_revision = (subject > bindparam("after")) & (subject < bindparam("before"))
    taken = IS_DELETION & of_revision
    query = select(EventRecord.at, action, subject, EventRecord.actor, EventRecord.detail).where(or_(moved, taken))
    return query.order_by(EventRecord.at.desc(), EventRecord.id.desc())


def _values(path: Path) -> dict[str, str]:
    return {"path": str(path), "after": f"{path}@", "before": f"{path}A"}


_LATEST: Final = Prepared(lambda _: _events().limit(_READ))
