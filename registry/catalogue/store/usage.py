"""How many bytes revisions take in the store, counted as if what a session does not see were not stored.

Files are read in the order of their digests, so that those who have a blob come together. Of each adapter and each
revision two numbers are returned; listed are those with the most bytes of their own. And how the stored bytes grew, by
week.
"""

from __future__ import annotations

import heapq
import itertools
import operator
from array import array
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, true, union
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from registry.catalogue.database.tables import (
    Adapter,
    BaseFile,
    BaseModelRecord,
    Blob,
    Revision,
    RevisionFile,
    table_of,
)
from registry.catalogue.database.team_tables import MaterialisationRecord, MaterialisedFile
from registry.catalogue.database.transactions import finds, plan_for_values
from registry.catalogue.database.visibility import in_subtree, rights_of
from registry.catalogue.store.blobs import parts
from registry.catalogue.store.unreferenced import end_of, unneeded
from registry.digest import BlobRef
from registry.reference import Path
from registry.schemas.jobs import StoredWeek
from registry.schemas.usage import Taken, Usage

WEEKS: Final = 12
_WEEK: Final = timedelta(weeks=1)


def stored(session: Session) -> int:
    """Bytes of all blobs that are stored."""
    return int(session.scalar(select(func.coalesce(func.sum(Blob.size), 0))) or 0)  # a tombstone has no size


def weeks(session: Session, today: date) -> tuple[StoredWeek, ...]:
    """What was stored in each of the last weeks and still exists, oldest first; the last one is the current one."""
    monday = today - timedelta(days=today.weekday())
    starts = [monday - _WEEK * number for number in reversed(range(WEEKS))]
    sizes = session.execute(select(*(_between(start).scalar_subquery() for start in starts))).one()
    return tuple(StoredWeek(week=start, bytes=int(size)) for start, size in zip(starts, sizes, strict=True))


def _between(start: date) -> Select[Any]:
    begin = datetime(start.year, start.month, start.day, tzinfo=UTC)
    made = (Blob.created_at >= begin) & (Blob.created_at < begin + _WEEK)
    return select(func.coalesce(func.sum(Blob.size), 0)).where(made)


MOST_LISTED: Final = 10_000
"""Adapters, and revisions, that an answer lists: those with the most bytes of their own."""

_AT_ONCE: Final = 5000  # files that are fetched
_STRETCH: Final = 10_000  # blobs
_WEIGHTS: Final = ".safetensors"


def usage(session: Session, path: Path | None) -> Usage:
    """What is stored of everything, or of what is at and under a path."""
    plan_for_values(session)
    asked, now = true() if path is None else in_subtree(path), datetime.now(UTC)
    counted = Revision.id.not_in(_repeated(asked))
    adapters, revisions = _Takers(_most(session, Adapter.id)), _Takers(_most(session, Revision.id))
    size = _add_up(session.execute(_files(asked, counted, path, now)), adapters, revisions)
    counts = session.execute(_counts(asked, counted)).all()
    weights = {row.base_id: int(row.size) for row in session.execute(_weights())}
    listed = tuple(_adapters(session, adapters, counted)), tuple(_revisions(session, revisions))
    return Usage(
        path=None if path is None else str(path),
        adapters=listed[0],
        revisions=listed[1],
        size=size,
        full_checkpoints=sum(row.revisions * weights[row.base_id] for row in counts),
        materialisations=_total_of(session, _kept(asked, now)),
        collectable=_collectable(session, path, asked, now),
        unlisted_adapters=sum(row.adapters for row in counts) - len(listed[0]),
        unlisted_revisions=sum(row.revisions for row in counts) - len(listed[1]),
    )


def _total_of(session: Session, query: Select[Any]) -> int:
    return int(session.scalar(query) or 0)


def _most(session: Session, key: InstrumentedAttribute[int]) -> int:
    return _total_of(session, select(func.max(key)))


class _Takers:
    """What adapters or revisions take, by key: 16 bytes each, since the keys may be millions."""

    def __init__(self, most: int) -> None:
        self.sizes = array("q", [-1]) * (most + 1)  # -1: none of those queried
        self.own = array("q", [0]) * (most + 1)

    def add(self, key: int, size: int) -> None:
        self.sizes[key] = max(self.sizes[key], 0) + size

    def largest(self) -> list[int]:
        """The keys of the `MOST_LISTED` with the most bytes of their own."""
        there = (key for key, size in enumerate(self.sizes) if size >= 0)
        return heapq.nlargest(MOST_LISTED, there, key=lambda key: (self.own[key], self.sizes[key], -key))


def _add_up(files: Iterable[Any], adapters: _Takers, revisions: _Takers) -> int:
    """Count each blob for those who have it, and as their own for who alone has it; the bytes of all."""
    total = 0
    for _, rows in itertools.groupby(files, operator.itemgetter(0)):
        adapter = revision = 0
        adapter_count = revision_count = size = needed = 0
        for _, size, needed, is_asked, adapter_id, revision_id in rows:  # noqa: B007 - the same in all rows
            if revision_id == revision:
                continue  # has the blob in two files
            revision_count += 1
            revision = revision_id
            if is_asked:
                revisions.add(revision_id, size)
            if adapter_id != adapter:
                adapter_count += 1
                adapter = adapter_id
                if is_asked:
                    adapters.add(adapter_id, size)
        total += size
        if adapter_count == 1 and not needed:
            adapters.own[adapter] += size
            if revision_count == 1:
                revisions.own[revision] += size
    return total


def _adapters(session: Session, taken: _Takers, counted: ColumnElement[bool]) -> Iterator[Taken]:
    # By the index of each: grouped, PostgreSQL reads all revisions for every part of the keys.
    own = select(func.count()).select_from(Revision).where(Revision.adapter_id == Adapter.id, counted)
    query = select(Adapter.id, Adapter.path, own.correlate(Adapter).scalar_subquery().label("revisions"))
    for row in _named(session, query, Adapter.id, taken.largest()):
        yield Taken(name=row.path, revisions=row.revisions, size=taken.sizes[row.id], own=taken.own[row.id])


def _revisions(session: Session, taken: _Takers) -> Iterator[Taken]:
    query = select(Revision.id, Adapter.path, Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    for row in _named(session, query, Revision.id, taken.largest()):
        name = f"{row.path}@{row.number}"
        yield Taken(name=name, revisions=1, size=taken.sizes[row.id], own=taken.own[row.id])


def _named(
    session: Session, query: Select[*tuple[Any, ...]], key: InstrumentedAttribute[int], keys: list[int]
) -> list[Any]:
    """The rows with these keys, in the order of paths and numbers."""
    found = (row for part in parts(keys) for row in session.execute(query.where(key.in_(part))))
    return sorted(found, key=operator.itemgetter(1, 2))


# ------------------------------------------------------------------ what revisions have


def _repeated(asked: ColumnElement[bool]) -> Select[int]:
    """Keys of revisions that count under another name: under the newest, or under an old one that is queried."""
    newest = func.coalesce(Adapter.renamed_to, Adapter.path)
    old = aliased(Adapter)
    new_names = select(old.renamed_to).where(old.renamed_to.is_not(None))
    first = (case((asked, 0), else_=1), case((Adapter.renamed_to.is_(None), 0), else_=1), Adapter.id)
    place = func.row_number().over(partition_by=(newest, Revision.number), order_by=first).label("place")
    ranked = (
        select(Revision.id, place)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(or_(Adapter.renamed_to.is_not(None), Adapter.path.in_(new_names)))
        .subquery()
    )
    return select(ranked.c.id).where(ranked.c.place > 1)


def _files(
    asked: ColumnElement[bool], counted: ColumnElement[bool], path: Path | None, now: datetime
) -> Select[*tuple[Any, ...]]:
    """Blobs and who has them: those of what is queried, by digest, adapter and revision."""
    needed = Blob.digest.in_(union(*_of_bases(), _materialised(_lasts(now))))
    query = (
        select(Blob.digest, Blob.size, needed, asked, Adapter.id, Revision.id)
        .join(RevisionFile, RevisionFile.digest == Blob.digest)
        .join(Revision, Revision.id == RevisionFile.revision_id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(counted)
        .order_by(Blob.digest, Adapter.id, Revision.id)
        .execution_options(yield_per=_AT_ONCE)
    )
    if path is None:
        return query
    own = select(RevisionFile.digest).join(Revision, Revision.id == RevisionFile.revision_id)
    return query.where(Blob.digest.in_(own.join(Adapter, Adapter.id == Revision.adapter_id).where(asked, counted)))


def _counts(*conditions: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """How many adapters and revisions are chosen, of each base model."""
    return (
        select(
            Adapter.base_id,
            func.count().label("revisions"),
            func.count(Adapter.id.distinct()).label("adapters"),
        )
        .select_from(Revision)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(*conditions)
        .group_by(Adapter.base_id)
    )


def _weights() -> Select[*tuple[Any, ...]]:
    """The bytes of the weights of each base model."""
    return (
        select(BaseFile.base_id, func.sum(Blob.size).label("size"))
        .join(BaseModelRecord, BaseModelRecord.id == BaseFile.base_id)
        .join(Blob, Blob.digest == BaseFile.digest)
        .where(BaseFile.path.endswith(_WEIGHTS, autoescape=True))
        .group_by(BaseFile.base_id)
    )


# ------------------------------------------------------------------ what else is stored


def _of_bases() -> tuple[Select[str], ...]:
    """The blobs of base models."""
    files = select(BaseFile.digest).join(BaseModelRecord, BaseModelRecord.id == BaseFile.base_id)
    return files, select(BaseModelRecord.index_blob), select(BaseModelRecord.table_blob)


_OWNER: Final = table_of(Revision).alias("owner")  # no record: deleted ones are looked at, too


def _materialised(*conditions: ColumnElement[bool]) -> Select[str]:
    """The blobs of materialisations."""
    return (
        select(MaterialisedFile.digest)
        .join(MaterialisationRecord, MaterialisationRecord.id == MaterialisedFile.materialisation_id)
        .join(_OWNER, _OWNER.c.id == MaterialisationRecord.revision_id)
        .join(Adapter, Adapter.id == _OWNER.c.adapter_id)
        .where(*conditions)
    )


def _lasts(now: datetime) -> ColumnElement[bool]:
    return and_(_OWNER.c.deleted_at.is_(None), MaterialisationRecord.expires_at > now)


def _is_used() -> ColumnElement[bool]:
    """The condition that a revision has a blob."""
    users = (
        select(RevisionFile.digest)
        .join(Revision, Revision.id == RevisionFile.revision_id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(RevisionFile.digest == Blob.digest)
    )
    return or_(finds(users.correlate(Blob)), Blob.digest.in_(union(*_of_bases())))


def _kept(asked: ColumnElement[bool], now: datetime) -> Select[int]:
    """The bytes that only materialisations keep."""
    kept = _materialised(asked, _lasts(now))
    return select(func.sum(Blob.size)).where(Blob.digest.in_(kept), ~_is_used())


def _collectable(session: Session, path: Path | None, asked: ColumnElement[bool], now: datetime) -> int:
    """The bytes that only deleted revisions and expired materialisations keep, or nothing."""
    deleted = (
        select(RevisionFile.digest)
        .join(_OWNER, _OWNER.c.id == RevisionFile.revision_id)
        .join(Adapter, Adapter.id == _OWNER.c.adapter_id)
        .where(_OWNER.c.deleted_at.is_not(None), asked)
    )
    released = union(deleted, _materialised(asked, ~_lasts(now)))
    kept = Blob.digest.in_(_materialised(_lasts(now)))
    found = _total_of(session, select(func.sum(Blob.size)).where(Blob.digest.in_(released), ~_is_used(), ~kept))
    if path is None and rights_of(session).unlimited:
        found += sum(one.size for part in _of_nothing(session) for one in part)
    return found


def _of_nothing(session: Session) -> Iterator[tuple[BlobRef, ...]]:
    """Blobs that nothing refers to, some thousand looked at together: on PostgreSQL, a query may take 30 s at most."""
    after: str | None = ""
    while after is not None:
        end = end_of(session, after, _STRETCH)
        yield unneeded(session, datetime.max.replace(tzinfo=UTC), after=after, end=end)
        after = end
