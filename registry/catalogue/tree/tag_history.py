"""What a tag pointed at over time, from the events of its adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import EventRecord
from registry.catalogue.database.visibility import is_revision_of
from registry.reference import Path


@dataclass(frozen=True)
class TagChange:
    """A tag named ``old`` before and ``new`` after, as references ``PATH@N``; None: it did not exist."""

    old: str | None
    new: str | None


def last_change(session: Session, path: Path, tag: str) -> TagChange | None:
    """The last change of a tag, by itself or with the deletion or restoring of its revision; None: it never was."""
    moved = and_(EventRecord.action.in_(("tag", "untag")), EventRecord.subject == str(path))
    taken = and_(EventRecord.action.in_(("delete", "delete undo")), is_revision_of(path, EventRecord.subject))
    query = select(EventRecord.action, EventRecord.subject, EventRecord.detail).where(or_(moved, taken))
    for action, subject, detail in session.execute(query.order_by(EventRecord.id.desc())):
        change = _change(tag, action, subject, detail)
        if change is not None:
            return change
    return None


def _change(tag: str, action: str, subject: str, detail: dict[str, Any]) -> TagChange | None:
    """The change of this tag that an event tells of."""
    if action in {"tag", "untag"}:
        return TagChange(detail.get("old"), detail.get("new")) if detail.get("tag") == tag else None
    if tag not in (detail.get("tags") or ()):
        return None
    return TagChange(subject, None) if action == "delete" else TagChange(None, subject)
