"""How much revisions were used; see `registry.catalogue.changes.use`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Date, Select, bindparam, case, func, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import Adapter, Revision
from registry.catalogue.database.team_tables import LoadRecord, UseRecord
from registry.catalogue.store.blobs import parts
from registry.reference import Path
from registry.schemas.usage import RECENT_DAYS, RevisionUse, Use


@dataclass(frozen=True)
class Uses:
    """How much some revisions were used: each of them, and all together. One that never was is not in ``each``."""

    each: dict[int, Use]
    together: Use

    def named(self, references: Mapping[int, str]) -> tuple[RevisionUse, ...]:
        """Those that were used, in the order of ``references``."""
        return tuple(
            RevisionUse(reference=reference, **dict(self.each[key]))
            for key, reference in references.items()
            if key in self.each
        )


def loaded(session: Session, path: Path, who: str, since: datetime) -> tuple[tuple[int, bool], ...]:
    """The numbers of an adapter's revisions that a token, or a principal by its name, has loaded from a Hub view.

    Each with whether weights were asked for; else the token was told only which commit a name means.
    """
    query = (
        select(Revision.number, LoadRecord.weights)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .join(LoadRecord, LoadRecord.revision_id == Revision.id)
        .where(Adapter.path == str(path), LoadRecord.who == who, LoadRecord.hour >= since)
        .distinct()
    )
    return tuple((number, weights) for number, weights in session.execute(query))


def uses(session: Session, revision_ids: Iterable[int]) -> Uses:
    """How much these revisions were used. Counts have no visibility filter: the revisions must be visible ones."""
    ids, since = tuple(revision_ids), _first_recent(datetime.now(UTC))
    last: dict[int, datetime] = {}
    by_interface: dict[int, Counter[str]] = defaultdict(Counter)
    who: dict[int, set[str]] = defaultdict(set)
    for row in _asked(session, _counts, ids, since):
        last[row.revision_id] = max(row.last, last.get(row.revision_id, row.last))
        by_interface[row.revision_id][row.interface] += int(row.recent)
    for row in _asked(session, _names, ids, since) if last else ():
        who[row.revision_id].add(row.who)
    each = {key: _use(at, by_interface[key], who[key]) for key, at in last.items()}
    together = sum(by_interface.values(), Counter[str]())
    return Uses(each, _use(max(last.values(), default=None), together, set().union(*who.values())))


def _first_recent(now: datetime) -> date:
    """The first of the days that are recent."""
    return (now - timedelta(days=RECENT_DAYS - 1)).date()


def _use(last_used_at: datetime | None, by_interface: Counter[str], who: set[str]) -> Use:
    counts = {interface: count for interface, count in sorted(by_interface.items()) if count}
    return Use(last_used_at=last_used_at, uses=sum(counts.values()), by_interface=counts, tokens=len(who))


_About = Callable[[ColumnElement[bool]], Select[*tuple[Any, ...]]]
_SINCE: Final = bindparam("since", type_=Date())


def _counts(chosen: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    recent = func.sum(case((UseRecord.day >= _SINCE, UseRecord.count), else_=0)).label("recent")
    latest = func.max(UseRecord.last_used_at).label("last")
    counts = select(UseRecord.revision_id, UseRecord.interface, recent, latest)
    return counts.where(chosen).group_by(UseRecord.revision_id, UseRecord.interface)


def _names(chosen: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    return select(UseRecord.revision_id, UseRecord.who).where(chosen, UseRecord.day >= _SINCE).distinct()


def _of_one(about: _About) -> Prepared:
    return Prepared(lambda _: about(UseRecord.revision_id == bindparam("id")))


_OF_ONE: Final[dict[_About, Prepared]] = {about: _of_one(about) for about in (_counts, _names)}


def _asked(session: Session, about: _About, ids: Sequence[int], since: date) -> Iterator[Any]:
    if len(ids) == 1:
        yield from reading(session).rows(_OF_ONE[about], {"id": ids[0], "since": since})
        return
    for part in parts(ids):
        yield from session.execute(about(UseRecord.revision_id.in_(part)), {"since": since})
