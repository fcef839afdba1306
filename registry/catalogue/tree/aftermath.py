"""What events tell of a revision since it was published: values that were added or edited, and its deletion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Adapter, EventRecord, Revision
from registry.catalogue.database.visibility import INCLUDE_DELETED
from registry.catalogue.tree import browse
from registry.digest import PREFIX
from registry.reference import Path, Reference
from registry.schemas import DeletedRevision

_READ: Final = 1000
"""Events of a revision that are looked at, the newest; of what older ones added, nothing is said."""
_PUBLISHING: Final = timedelta(minutes=1)
MESSAGE: Final = ("message", "")
"""The key of the message among values."""

Value = tuple[str, str]
"""``metric`` or ``annotation``, and the name; or `MESSAGE`."""


@dataclass(frozen=True)
class ValueChange:
    """The last change of a value after its revision was published.

    Args:
        at, actor: when, and by whom.
        old: what it was before; None: it was not there.
    """

    at: datetime
    actor: str
    old: object


def value_changes(session: Session, path: Path, number: int) -> dict[Value, ValueChange]:
    """The values of a revision that somebody added or edited, each with the last time; what is not here was published.

    Also what was done under old names of the adapter that the session sees. What its publisher adds in the minute after
    publishing belongs to that: publishing records values as it records those that are added.
    """
    old_names = select(Adapter.path).where(Adapter.renamed_to == str(path))
    subjects = [f"{name}@{number}" for name in (str(path), *session.scalars(old_names))]
    columns = (EventRecord.at, EventRecord.action, EventRecord.actor, EventRecord.token, EventRecord.detail)
    query = select(*columns).where(EventRecord.subject.in_(subjects), EventRecord.action.in_(("annotate", "publish")))
    rows = session.execute(query.order_by(EventRecord.id.desc()).limit(_READ)).all()
    published = next((row for row in rows if row.action == "publish"), None)
    found: dict[Value, ValueChange] = {}
    for row in rows:
        if row.action == "publish" or (published is not None and _belongs(row, published)):
            continue
        for value in _changed(row.detail):
            found.setdefault(value, ValueChange(row.at, row.actor, row.detail.get("old")))
    return found


def _belongs(row: Any, published: Any) -> bool:
    same = (row.actor, row.token) == (published.actor, published.token)
    return same and row.detail.get("old") is None and row.at - published.at <= _PUBLISHING


def _changed(detail: dict[str, Any]) -> Iterator[Value]:
    if "message" in detail:
        yield MESSAGE
    yield from ((kind, detail[kind]) for kind in ("metric", "annotation") if kind in detail)


def deletion_of(session: Session, reference: Reference, now: datetime, grace: timedelta) -> DeletedRevision | None:
    """The deleted revision that a reference names; of a path, the one with the highest number if it has no others.

    None: nothing of the kind was deleted, or the session does not see the adapter, which is the same.
    """
    if reference.path.is_base or reference.tag is not None:
        return None
    number = reference.number
    if reference.digest_prefix is not None:
        number = _number_of(session, reference.path, reference.digest_prefix)
        if number is None:
            return None
    if number is not None:
        found = browse.deleted_between(session, reference.path, now, grace, above=number - 1, before=number + 1)
    else:
        live = select(Adapter.live_revisions).where(Adapter.path == str(reference.path))
        if session.scalar(live) != 0:
            return None
        found = browse.deleted_between(session, reference.path, now, grace, limit=1)
    return found[0] if found else None


def _number_of(session: Session, path: Path, prefix: str) -> int | None:
    """The number of the only deleted revision whose digest begins so."""
    begin = f"{PREFIX}{prefix.removeprefix(PREFIX)}"
    query = select(Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    query = query.where(Adapter.path == str(path), Revision.deleted_at.is_not(None))
    query = query.where(Revision.digest >= begin, Revision.digest < f"{begin}g")  # hex digits end before "g"
    found = session.scalars(query.limit(2), execution_options=INCLUDE_DELETED).all()
    return found[0] if len(found) == 1 else None
