"""How much revisions were used; see `registry.catalogue.changes.use`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from registry.catalogue.database.team_tables import UseRecord
from registry.catalogue.store.blobs import parts
from registry.schemas.use import RECENT_DAYS, RevisionUse, Use


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


def uses(session: Session, revision_ids: Iterable[int]) -> Uses:
    """How much these revisions were used. Counts have no visibility filter: the revisions must be visible ones."""
    since = _first_recent(datetime.now(UTC))
    last: dict[int, datetime] = {}
    by_interface: dict[int, Counter[str]] = defaultdict(Counter)
    who: dict[int, set[str]] = defaultdict(set)
    for part in parts(revision_ids):
        recent = func.sum(case((UseRecord.day >= since, UseRecord.count), else_=0))
        counts = select(UseRecord.revision_id, UseRecord.interface, recent, func.max(UseRecord.last_used_at))
        chosen = UseRecord.revision_id.in_(part)
        for key, interface, count, at in session.execute(
            counts.where(chosen).group_by(UseRecord.revision_id, UseRecord.interface)
        ):
            last[key] = max(at, last.get(key, at))
            by_interface[key][interface] += int(count)
        if not last:
            continue
        names = select(UseRecord.revision_id, UseRecord.who).where(chosen, UseRecord.day >= since).distinct()
        for key, name in session.execute(names):
            who[key].add(name)
    each = {key: _use(at, by_interface[key], who[key]) for key, at in last.items()}
    together = sum(by_interface.values(), Counter[str]())
    return Uses(each, _use(max(last.values(), default=None), together, set().union(*who.values())))


def _first_recent(now: datetime) -> date:
    """The first of the days that are recent."""
    return (now - timedelta(days=RECENT_DAYS - 1)).date()


def _use(last_used_at: datetime | None, by_interface: Counter[str], who: set[str]) -> Use:
    counts = {interface: count for interface, count in sorted(by_interface.items()) if count}
    return Use(last_used_at=last_used_at, uses=sum(counts.values()), by_interface=counts, tokens=len(who))
