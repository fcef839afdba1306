"""What people wrote about adapters and how much revisions were used (`registry.catalogue.changes.details` writes it).

A card is the edited text, or else the published README.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any, Final

from sqlalchemy import CTE, Date, Select, bindparam, case, func, literal, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import Adapter, Blob, Revision, RevisionFile
from registry.catalogue.database.team_tables import CardRecord, LoadRecord, UseRecord
from registry.catalogue.store.blobs import BLOB_COLUMNS, parts
from registry.digest import StoredFile, sha256_digest
from registry.reference import Path
from registry.schemas.labels import CardState
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

    Each with whether weights were requested; else the answer was only which commit a name means.
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


README: Final = "README.md"
NO_CARD: Final = sha256_digest(b"")
"""The digest of the text of an adapter that has no card."""
LOOKED_AT: Final = 1000
"""Revisions among which a README.md is looked for: an adapter without any may have 200,000."""


def edited(session: Session, adapter_id: int) -> CardRecord | None:
    """The edited card of an adapter."""
    return session.get(CardRecord, adapter_id)


def metadata(session: Session, adapter_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The front matter of the edited cards of some adapters, by the adapter's key."""
    query = select(CardRecord.adapter_id, CardRecord.front_matter).where(CardRecord.adapter_id.in_(adapter_ids))
    return dict(session.execute(query).all())


def own_metadata(session: Session, adapter_id: int) -> dict[str, Any]:
    """The front matter of the edited card of an adapter; empty without one."""
    row = reading(session).first(_FRONT_MATTER, {"id": adapter_id})
    return {} if row is None else dict(row.front_matter)


def published(session: Session, adapter_id: int) -> tuple[str, StoredFile] | None:
    """The README.md of the newest revision that has one, of the newest `LOOKED_AT`, and that revision's reference."""
    row = reading(session).first(_PUBLISHED, {"id": adapter_id})
    return None if row is None else (f"{row.adapter}@{row.number}", StoredFile(*row[2:]))


def state(session: Session, adapter_id: int) -> CardState | None:
    """Which text is the card of an adapter; None if it has none."""
    row = reading(session).first(_STATE, {"id": adapter_id})
    if row is not None:
        return CardState(source="edited", digest=row.digest, edited_at=row.edited_at, edited_by=row.edited_by)
    found = published(session, adapter_id)
    return None if found is None else CardState(source="published", digest=found[1].digest, reference=found[0])


_FRONT_MATTER: Final = Prepared(
    lambda _: select(CardRecord.front_matter).where(CardRecord.adapter_id == bindparam("id"))
)
_STATE: Final = Prepared(
    lambda _: select(CardRecord.digest, CardRecord.edited_at, CardRecord.edited_by).where(
        CardRecord.adapter_id == bindparam("id")
    )
)


@cache
def _newest() -> CTE:
    # The file is looked for at each: of what is joined, PostgreSQL would look through all files.
    file = select(RevisionFile.digest).where(RevisionFile.revision_id == Revision.id, RevisionFile.path == README)
    query = select(Revision.number, Revision.adapter_id, file.limit(1).scalar_subquery().label("digest"))
    newest = query.where(Revision.adapter_id == bindparam("id")).order_by(Revision.number.desc()).limit(LOOKED_AT)
    return newest.cte("newest").prefix_with("MATERIALIZED")


_PUBLISHED: Final = Prepared(
    lambda _: (
        select(Adapter.path.label("adapter"), _newest().c.number, *BLOB_COLUMNS, literal(README).label("path"))
        .select_from(_newest())
        .join(Adapter, Adapter.id == _newest().c.adapter_id)
        .join(Blob, Blob.digest == _newest().c.digest)
        .order_by(_newest().c.number.desc())
        .limit(1)
    )
)


@dataclass(frozen=True)
class CardVersion:
    """A text of a card that is stored.

    Args:
        number: of the revision that was published with it; None: the edited text, of which only the last is stored.
        digest, at, by: of the text, and when and by whom it was written or published.
    """

    number: int | None
    digest: str
    at: datetime
    by: str


def versions(session: Session, adapter_id: int, limit: int) -> tuple[CardVersion, ...]:
    """The edited card, and each README.md that differs from that of the revision before with one, newest first.

    Of the newest `LOOKED_AT` revisions, at most ``limit`` altogether.
    """
    found: list[CardVersion] = []
    for row in reversed(reading(session).rows(_READMES, {"id": adapter_id})):
        if not found or found[-1].digest != row.digest:
            found.append(CardVersion(row.number, row.digest, row.created_at, row.author))
    card = edited(session, adapter_id)
    if card is not None:
        found.append(CardVersion(None, card.digest, card.edited_at, card.edited_by))
    return tuple(sorted(found, key=lambda one: (one.number is None, one.number), reverse=True)[:limit])


def _readmes() -> Select[*tuple[Any, ...]]:
    newest = _newest()
    query = select(newest.c.number, newest.c.digest, Revision.created_at, Revision.author)
    # By their own index: a join with the names of files would let PostgreSQL look through all of them.
    own = (Revision.adapter_id == newest.c.adapter_id) & (Revision.number == newest.c.number)
    return query.join(Revision, own).where(newest.c.digest.is_not(None)).order_by(newest.c.number.desc())


_READMES: Final = Prepared(lambda _: _readmes())
