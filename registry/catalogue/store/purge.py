"""Purges deleted revisions and base models: after their grace period, or because their name or digest is reused.

Events remain, and numbers stay taken. Bytes are collected like any unreferenced ones. A collector leaves tombstones:
reserved keys of the orphaned objects that it removed. A tombstone is a row under a digest that no bytes have; keys are
unique, so a publisher that stored the object long ago and has not committed yet is refused instead of writing a
dangling row. Tombstones outlive any publish by far.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Executable, and_, delete, exists, func, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database import events
from registry.catalogue.database.statistics_tables import BaseNormsRecord
from registry.catalogue.database.tables import (
    Adapter,
    Annotation,
    BaseFile,
    BaseModelRecord,
    BaseRepoId,
    Blob,
    Metric,
    Revision,
    RevisionFile,
    RevisionSource,
    RevisionTarget,
    Tag,
    table_of,
)
from registry.catalogue.database.team_tables import CardRecord, ProtectedTagRecord, UploadRecord
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED, in_subtree
from registry.catalogue.store.blobs import parts, standing_on
from registry.digest import PREFIX
from registry.reference import Path
from registry.rights import Principal

LIFETIME: Final = timedelta(days=30)
REAL: Final = PREFIX
"""Digests of bytes sort after this, those of tombstones before it."""
_MARK: Final = "condemned:"


def named(session: Session, keys: Iterable[str]) -> frozenset[str]:
    """Those keys that the row of a blob or of an upload names; objects under others are orphans."""
    found: set[str] = set()
    for part in parts(keys):
        found.update(session.scalars(select(Blob.key).where(Blob.key.in_(part), Blob.digest > REAL)))
        for length in set(map(len, part)):
            joined = func.substr(UploadRecord.multipart, 1, length)  # see `registry.storage.staging.Staging`
            found.update(session.scalars(select(joined).where(joined.in_(part))))
    return frozenset(found)


def add(session: Session, keys: Iterable[str]) -> frozenset[str]:
    """Reserve keys; returns those that no row names, whose objects may be removed."""
    now = datetime.now(UTC)
    condemned: set[str] = set()
    for part in parts(sorted(set(keys))):
        rows = [
            {"digest": _MARK + key, "key": key, "size": 0, "blocks_digest": "", "created_at": now, "used_at": now}
            for key in part
        ]
        session.execute(_insert_new(session), rows)
        marks = [row["digest"] for row in rows]
        condemned.update(session.scalars(select(Blob.key).where(Blob.digest.in_(marks))))
    return frozenset(condemned)


def forget(session: Session, before: datetime) -> None:
    """Delete tombstones that were made before then."""
    session.execute(delete(Blob).where(Blob.digest < REAL, Blob.used_at < before))


def _insert_new(session: Session) -> Executable:
    # The same clause on both, but no common construct for it.
    if session.get_bind().dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # slow to import, and not needed with SQLite

        return postgresql.insert(Blob).on_conflict_do_nothing()
    return sqlite.insert(Blob).on_conflict_do_nothing()


GRACE_OVER: Final = "the grace period is over"
SAME_AGAIN: Final = "the same content was published again"
NAME_AGAIN: Final = "another base model has the name"
_ALL: Final = {**IGNORE_RIGHTS, **INCLUDE_DELETED}
_PLACEHOLDER: Final = "{name} replaced"  # no base model can be called this


def expired(session: Session, before: datetime, limit: int) -> tuple[int, ...]:
    """Keys of revisions that were deleted before then, oldest deletion first."""
    query = select(Revision.id).where(Revision.deleted_at < before).order_by(Revision.deleted_at)
    return tuple(session.scalars(query.limit(limit), execution_options=_ALL))


def count_expired(session: Session, before: datetime) -> int:
    """How many they are."""
    query = select(func.count()).select_from(Revision).where(Revision.deleted_at < before)
    return session.scalar(query, execution_options=_ALL) or 0


def expired_references(session: Session, before: datetime, limit: int) -> tuple[str, ...]:
    """The same as references, at most ``limit``, the oldest first."""
    query = select(Adapter.path, Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    query = query.where(Revision.deleted_at < before).order_by(Revision.id).limit(limit)
    found = session.execute(query, execution_options=_ALL)
    return tuple(f"{path}@{number}" for path, number in found)


def expired_bases(session: Session, before: datetime) -> tuple[str, ...]:
    """Names of base models that were deleted before then and still have their files."""
    query = select(BaseModelRecord.name).where(BaseModelRecord.deleted_at < before, has_files())
    return tuple(session.scalars(query.order_by(BaseModelRecord.name), execution_options=_ALL))


def has_files() -> ColumnElement[bool]:
    """The condition that a deleted base model can be restored: a row without files only keeps numbers taken."""
    return exists().where(BaseFile.base_id == BaseModelRecord.id)


def purge(session: Session, revision_ids: Iterable[int], why: str, principal: Principal) -> tuple[str, ...]:
    """Purge deleted revisions, and the deleted ones that were trained on them or combined of them; returns which.

    Those could be restored only after these. A revision restored meanwhile stays.
    """
    gone: list[str] = []
    for part in parts(revision_ids):
        start = select(Revision.id).where(Revision.id.in_(part), Revision.deleted_at.is_not(None))
        found = standing_on(session, session.scalars(start, execution_options=_ALL), _ALL)
        held = (
            select(
                Revision.id,
                Revision.adapter_id,
                Revision.number,
                Revision.digest,
                Revision.deleted_at,
                Revision.deleted_by,
                Adapter.path,
            )
            .join(Adapter, Adapter.id == Revision.adapter_id)
            .where(Revision.deleted_at.is_not(None))
            .order_by(Revision.id)  # as an undo locks: parents first
            .with_for_update(of=Revision)
        )
        rows = [
            row
            for some in parts(sorted(found))
            for row in session.execute(held.where(Revision.id.in_(some)), execution_options=_ALL)
        ]
        ids = [row.id for row in rows]
        for some in parts(ids):
            for table in (Tag, Metric, Annotation, RevisionFile, RevisionTarget, RevisionSource):
                session.execute(delete(table).where(table.revision_id.in_(some)))
        for key in reversed(ids):
            session.execute(delete(Revision).where(Revision.id == key))
        for row in rows:
            gone.append(f"{row.path}@{row.number}")
            detail = {"digest": row.digest, **_deletion(row.deleted_at, row.deleted_by), "why": why}
            events.record(session, "purge", gone[-1], principal, detail)
        for some in parts({row.adapter_id for row in rows}):
            nothing_left = ~exists().where(Revision.adapter_id == CardRecord.adapter_id)
            session.execute(delete(CardRecord).where(CardRecord.adapter_id.in_(some), nothing_left))
    return tuple(gone)


def purge_base(
    session: Session, name: str, why: str, principal: Principal, *, before: datetime | None = None
) -> tuple[int | None, bool]:
    """Purge a deleted base model, with all that was deleted below it.

    Its row stays where adapters were below it, so that their numbers stay taken. Returns the key of a row that stays,
    and whether anything was purged.
    """
    conditions = [BaseModelRecord.name == name, BaseModelRecord.deleted_at.is_not(None)]
    if before is not None:
        conditions.append(BaseModelRecord.deleted_at < before)
    columns = (BaseModelRecord.id, BaseModelRecord.digest, BaseModelRecord.deleted_at, BaseModelRecord.deleted_by)
    held = select(*columns).where(and_(*conditions)).with_for_update()
    row = session.execute(held, execution_options=_ALL).one_or_none()
    if row is None:
        return None, False
    below = select(Revision.id).join(Adapter, Adapter.id == Revision.adapter_id).where(Adapter.base_id == row.id)
    purge(session, session.scalars(below, execution_options=_ALL).all(), why, principal)
    there = session.scalar(select(BaseFile.base_id).where(BaseFile.base_id == row.id).limit(1)) is not None
    for table in (BaseFile, BaseRepoId, ProtectedTagRecord, BaseNormsRecord):
        session.execute(delete(table).where(table.base_id == row.id))
    if there:
        detail = {"digest": row.digest, **_deletion(row.deleted_at, row.deleted_by), "why": why}
        events.record(session, "purge", name, principal, detail)
    adapters = select(Adapter.id).where(Adapter.base_id == row.id).limit(1)
    if session.scalar(adapters, execution_options=IGNORE_RIGHTS) is not None:
        return row.id, there
    session.execute(delete(BaseModelRecord).where(BaseModelRecord.id == row.id))
    return None, there


def release_name(session: Session, name: str, principal: Principal) -> int | None:
    """End the undo of a deleted base model whose name is taken; the key of a row that needs `reassign_adapters`."""
    key, _ = purge_base(session, name, NAME_AGAIN, principal)
    _forget_renames(session, name)
    if key is not None:
        placeholder = _PLACEHOLDER.format(name=name)
        session.execute(update(BaseModelRecord).where(BaseModelRecord.id == key).values(name=placeholder))
    return key


def _forget_renames(session: Session, name: str) -> None:
    """What was renamed to or from a name that another base model takes is an old name no longer."""
    adapters, bases, path = table_of(Adapter), table_of(BaseModelRecord), Path(name)
    renamed = in_subtree(path, adapters.c.path) | in_subtree(path, adapters.c.renamed_to)
    session.execute(update(adapters).where(adapters.c.renamed_to.is_not(None), renamed).values(renamed_to=None))
    session.execute(update(bases).where(bases.c.renamed_to == name).values(renamed_to=None))


def reassign_adapters(session: Session, old: int | None, new: int) -> None:
    """Give the adapters of the purged base model to the new one: none has a revision, but their numbers are taken."""
    if old is not None:
        session.execute(update(Adapter).where(Adapter.base_id == old).values(base_id=new))
        session.execute(delete(BaseModelRecord).where(BaseModelRecord.id == old))


def _deletion(at: datetime, by: str | None) -> dict[str, object]:
    return {"deleted_at": at.isoformat(), "deleted_by": by}
