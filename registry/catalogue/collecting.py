"""What a collector and a checker ask: which blobs nothing needs, where every blob lies, what a lost one takes down.

A collector deletes the rows first, in a transaction that keeps new references out, and the bytes after it: who needs
the same bytes then stores them anew, under a key of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.blobs import BlobRow, parts
from registry.catalogue.tables import Adapter, BaseFile, BaseModelRecord, Blob, Revision, RevisionFile
from registry.catalogue.team_tables import MaterialisedFile

_ROW = (Blob.digest, Blob.size, Blob.blocks_digest, Blob.key)


def unneeded(session: Session, before: datetime, *, limit: int = 500, after: str = "") -> tuple[BlobRow, ...]:
    """Blobs that nothing refers to and nobody has used since ``before``, by digest, those above ``after``."""
    query = select(*_ROW).where(Blob.digest > after, Blob.used_at < before, *_nothing_refers())
    return tuple(BlobRow(*row) for row in session.execute(query.order_by(Blob.digest).limit(limit)))


def count_in_grace(session: Session, before: datetime) -> int:
    """How many blobs nothing refers to that were used since ``before``."""
    return session.scalar(select(func.count()).select_from(Blob).where(Blob.used_at >= before, *_nothing_refers())) or 0


def forget(session: Session, digests: Iterable[str], before: datetime) -> tuple[BlobRow, ...]:
    """Delete the rows of those that are still unneeded; the answer is what was deleted, and so may go from the store.

    Meant for some hundred digests a transaction. Rows that someone else holds are left for the next time.
    """
    forgotten: list[BlobRow] = []
    for part in parts(sorted(set(digests))):
        held = (
            select(Blob.digest)
            .where(Blob.digest.in_(part), Blob.used_at < before)
            .order_by(Blob.digest)
            .with_for_update(skip_locked=True)
        )
        # Two statements: the second sees what was committed before the rows were held, and nothing can come after.
        locked = session.scalars(held).all()
        found = session.execute(select(*_ROW).where(Blob.digest.in_(locked), *_nothing_refers())).all()
        if found:
            session.execute(delete(Blob).where(Blob.digest.in_([row.digest for row in found])))
        forgotten += (BlobRow(*row) for row in found)
    return tuple(forgotten)


def keys(session: Session, *, after: str = "", limit: int = 500) -> tuple[BlobRow, ...]:
    """All blobs by key, those above ``after``."""
    query = select(*_ROW).where(Blob.key > after).order_by(Blob.key).limit(limit)
    return tuple(BlobRow(*row) for row in session.execute(query))


def known_keys(session: Session, wanted: Collection[str]) -> frozenset[str]:
    """Those keys that a row names: what is under another one is an orphan."""
    found: set[str] = set()
    for part in parts(wanted):
        found.update(session.scalars(select(Blob.key).where(Blob.key.in_(part))))
    return frozenset(found)


def totals(session: Session) -> tuple[int, int]:
    """How many blobs there are, and their bytes."""
    count, size = session.execute(select(func.count(), func.coalesce(func.sum(Blob.size), 0)).select_from(Blob)).one()
    return count, int(size)


def takes_down(session: Session, digest: str) -> tuple[str, ...]:
    """What is lost with a blob: base models by name, and every revision that has the file or was trained on one."""
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


def _nothing_refers() -> tuple[ColumnElement[bool], ...]:
    # One probe of an index each: a blob has few references, and there may be millions of blobs. By aliases, whose rows
    # are all there for every session: what is hidden is needed too.
    file, base_file, base = aliased(RevisionFile), aliased(BaseFile), aliased(BaseModelRecord)
    references = (file.digest, base_file.digest, base.index_blob, base.table_blob, aliased(MaterialisedFile).digest)
    return tuple(~exists().where(reference == Blob.digest) for reference in references)
