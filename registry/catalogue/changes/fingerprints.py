"""What paths make of some elements of their base model, and the revisions whose paths a folder may have."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.database.statistics_tables import FingerprintRecord
from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, Revision, RevisionFile
from registry.catalogue.database.visibility import IGNORE_RIGHTS
from registry.catalogue.tree.old_names import adapter_is_listed
from registry.folders.scan import ADAPTER_WEIGHTS

_AT_ONCE: Final = 500  # rows


class Searched(NamedTuple):
    """A revision that is searched."""

    id: int
    reference: str
    above: tuple[int, ...]  # the keys of the revisions of its path, root first, its own last


def searched(session: Session, base_id: int) -> tuple[Searched, ...]:
    """All revisions on a base model that the session sees, retracted ones too, newest first.

    Those above them are there as keys, also where they are hidden: a path that is seen is there whole.
    """
    parents = (
        select(Revision.id, Revision.parent_id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Adapter.base_id == base_id)
    )
    above = {row.id: row.parent_id for row in session.execute(parents, execution_options=IGNORE_RIGHTS)}
    query = (
        select(Revision.id, Adapter.path, Revision.number)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Adapter.base_id == base_id, HAS_REVISIONS, adapter_is_listed(session))
        .order_by(Revision.id.desc())
    )
    return tuple(
        Searched(row.id, f"{row.path}@{row.number}", tuple(reversed(list(_chain(row.id, above)))))
        for row in session.execute(query)
    )


def with_weights(session: Session, base_id: int, digest: str) -> frozenset[int]:
    """The keys of all revisions on a base model whose weights have a digest, as far as the session sees them."""
    query = (
        select(Revision.id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .join(RevisionFile, RevisionFile.revision_id == Revision.id)
        .where(Adapter.base_id == base_id, RevisionFile.path == ADAPTER_WEIGHTS, RevisionFile.digest == digest)
    )
    return frozenset(session.scalars(query).all())


def _chain(key: int | None, above: Mapping[int, int | None]) -> Iterator[int]:
    while key is not None:
        yield key
        key = above[key]


def kept(session: Session, ids: Collection[int], table_digest: str) -> dict[int, bytes]:
    """The fingerprints of some revisions, by key, as far as they were made with this target table."""
    found: dict[int, bytes] = {}
    keys = sorted(ids)
    for start in range(0, len(keys), _AT_ONCE):
        query = select(FingerprintRecord.revision_id, FingerprintRecord.document).where(
            FingerprintRecord.revision_id.in_(keys[start : start + _AT_ONCE]),
            FingerprintRecord.table_digest == table_digest,
        )
        found |= {row.revision_id: row.document for row in session.execute(query)}
    return found


def keep(session: Session, made: Mapping[int, bytes], table_digest: str) -> None:
    """Keep fingerprints, instead of those of another table; of deleted revisions nothing is kept.

    Args:
        session: a write transaction.
        made: by the keys of revisions.
        table_digest: of the target table that they were made with.
    """
    there = select(Revision.id).where(Revision.id.in_(made)).order_by(Revision.id).with_for_update(key_share=True)
    for key in session.scalars(there).all():
        row = session.get(FingerprintRecord, key) or FingerprintRecord(revision_id=key)
        row.table_digest, row.document = table_digest, made[key]
        session.add(row)
    session.flush()
