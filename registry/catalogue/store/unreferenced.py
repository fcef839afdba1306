"""Queries of the collector and of fsck: unreferenced blobs, all keys, and what depends on a blob.

A collector deletes rows first, in a transaction that excludes new references, and the bytes after it: a concurrent
publisher of the same bytes stores them again under a new key.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import and_, delete, exists, func, not_, or_, select
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import (
    Adapter,
    BaseFile,
    BaseModelRecord,
    Blob,
    Revision,
    RevisionFile,
    table_of,
)
from registry.catalogue.database.team_tables import MaterialisedFile
from registry.catalogue.database.transactions import finds
from registry.catalogue.store.blobs import BLOB_COLUMNS, parts
from registry.digest import BlobRef


def end_of(session: Session, after: str, size: int) -> str | None:
    """The digest that ends a stretch of ``size`` blobs after one, by digest; None if fewer exist."""
    return session.scalar(
        select(Blob.digest).where(Blob.digest > after).order_by(Blob.digest).offset(size - 1).limit(1)
    )


def unneeded(
    session: Session, before: datetime, *, after: str = "", end: str | None = None, foreseen: bool = False
) -> tuple[BlobRef, ...]:
    """Blobs without references and unused since ``before``, by digest: those after ``after``, up to ``end``.

    ``foreseen``: also those referred to only by deletions as old, as if these had been purged.
    """
    refers = _nothing_lasting_refers(before) if foreseen else nothing_refers()
    query = select(*BLOB_COLUMNS).where(*_stretch(after, end), Blob.used_at < before, *refers)
    return tuple(BlobRef(*row) for row in session.execute(query.order_by(Blob.digest)))


def count_in_grace(session: Session, before: datetime, *, after: str = "", end: str | None = None) -> int:
    """How many blobs nothing refers to, or only what is deleted, that were used or whose owners deleted since then."""
    no_owner = _nothing_lasting_refers(datetime.max.replace(tzinfo=UTC))
    young = or_(Blob.used_at >= before, not_(and_(*_nothing_lasting_refers(before))))
    return session.scalar(select(func.count()).select_from(Blob).where(*_stretch(after, end), young, *no_owner)) or 0


def _stretch(after: str, end: str | None) -> list[ColumnElement[bool]]:
    return [Blob.digest > after, *([] if end is None else [Blob.digest <= end])]


def forget(session: Session, digests: Iterable[str], before: datetime) -> tuple[BlobRef, ...]:
    """Delete the rows of those that are still unneeded; returns them: their bytes may be deleted.

    Meant for some hundred digests a transaction. Rows locked by others are skipped.
    """
    forgotten: list[BlobRef] = []
    for part in parts(sorted(set(digests))):
        held = (
            select(Blob.digest)
            .where(Blob.digest.in_(part), Blob.used_at < before)
            .order_by(Blob.digest)
            .with_for_update(skip_locked=True)
        )
        # Two statements: the second sees what was committed before the rows were held, and nothing can come after.
        locked = session.scalars(held).all()
        still = select(*BLOB_COLUMNS).where(Blob.digest.in_(locked), *nothing_refers())
        found = session.execute(still.order_by(Blob.digest)).all()
        if found:
            session.execute(delete(Blob).where(Blob.digest.in_([row.digest for row in found])))
        forgotten += (BlobRef(*row) for row in found)
    return tuple(forgotten)


def keys(session: Session, *, after: str = "", limit: int = 500) -> tuple[BlobRef, ...]:
    """All blobs by key, those above ``after``."""
    query = select(*BLOB_COLUMNS).where(Blob.key > after).order_by(Blob.key).limit(limit)
    return tuple(BlobRef(*row) for row in session.execute(query))


def totals(session: Session) -> tuple[int, int]:
    """The number of blobs, and their bytes."""
    count, size = session.execute(select(func.count(), func.coalesce(func.sum(Blob.size), 0)).select_from(Blob)).one()
    return count, int(size)


def takes_down(session: Session, digest: str) -> tuple[str, ...]:
    """What depends on a blob: base models by name, and every revision with the file or below one."""
    of_bases = select(BaseModelRecord.name).where(
        (BaseModelRecord.index_blob == digest)
        | (BaseModelRecord.table_blob == digest)
        | BaseModelRecord.id.in_(select(BaseFile.base_id).where(BaseFile.digest == digest))
    )
    start = select(RevisionFile.revision_id.label("id")).where(RevisionFile.digest == digest)
    found = start.cte("found", recursive=True)
    below = aliased(Revision)
    found = found.union(select(below.id).join(found, below.parent_id == found.c.id))
    contained = (
        select(Adapter.path, Revision.number)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Revision.id.in_(select(found.c.id)))
        .order_by(Revision.id)
    )
    return (
        *session.scalars(of_bases.order_by(BaseModelRecord.name)),
        *(f"{path}@{number}" for path, number in session.execute(contained)),
    )


def nothing_refers() -> tuple[ColumnElement[bool], ...]:
    """The condition that a blob is needed by nothing, seen or not."""
    # One probe of an index each: a blob has few references, and the blobs may be millions. By aliases, whose rows
    # are all visible to every session: what is hidden is needed too.
    file, base_file, base = aliased(RevisionFile), aliased(BaseFile), aliased(BaseModelRecord)
    references = (file.digest, base_file.digest, base.index_blob, base.table_blob, aliased(MaterialisedFile).digest)
    return tuple(~finds(select(reference).where(reference == Blob.digest)) for reference in references)


def _nothing_lasting_refers(before: datetime) -> tuple[ColumnElement[bool], ...]:
    """The same, as if what was deleted before then were gone; of a base model that had adapters the documents stay."""
    file, base_file, adapter = aliased(RevisionFile), aliased(BaseFile), aliased(Adapter)
    base, document, kept = aliased(BaseModelRecord), aliased(BaseModelRecord), aliased(MaterialisedFile)
    owner = table_of(Revision).alias()  # no record: deleted ones are looked at, too
    stays = or_(
        document.deleted_at.is_(None), document.deleted_at >= before, exists().where(adapter.base_id == document.id)
    )
    lasting = (
        select(file.digest)
        .where(file.digest == Blob.digest, owner.c.id == file.revision_id)
        .where(or_(owner.c.deleted_at.is_(None), owner.c.deleted_at >= before)),
        select(base_file.digest)
        .where(base_file.digest == Blob.digest, base.id == base_file.base_id)
        .where(or_(base.deleted_at.is_(None), base.deleted_at >= before)),
        select(document.id).where(document.index_blob == Blob.digest, stays),
        select(document.id).where(document.table_blob == Blob.digest, stays),
        select(kept.digest).where(kept.digest == Blob.digest),
    )
    return tuple(~finds(one) for one in lasting)
