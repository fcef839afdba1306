"""Rows of stored blobs. A row is written after the bytes, and before anything that refers to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final, TypeVar

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.orm import Session

from registry.catalogue.database import visibility
from registry.catalogue.database.tables import (
    Adapter,
    BaseFile,
    BaseModelRecord,
    Blob,
    Revision,
    RevisionFile,
    table_of,
)
from registry.catalogue.database.upsert import insert_if_absent
from registry.digest import BlobRef
from registry.errors import IntegrityError, NotFoundError, UnavailableError

T = TypeVar("T")
AT_ONCE: Final = 500  # rows or values in one statement

# Publishers of a shared blob would contend for its row if each of them touched it.
_FRESH: Final = timedelta(seconds=1)

BLOB_COLUMNS: Final = (Blob.digest, Blob.size, Blob.blocks_digest, Blob.key)
"""Of a `BlobRef`, in its order."""
_THOSE: Final = select(*BLOB_COLUMNS).where(Blob.digest.in_(bindparam("digests", expanding=True)))
_USED: Final = select(*BLOB_COLUMNS, Blob.used_at).where(Blob.digest.in_(bindparam("digests", expanding=True)))
# Locked in one order, and only against others who change the row.
_HELD: Final = (
    select(Blob.digest)
    .where(Blob.digest.in_(bindparam("digests", expanding=True)), Blob.used_at < bindparam("before"))
    .order_by(Blob.digest)
    .with_for_update(key_share=True)
    .cte("held")
)
_BLOBS: Final = table_of(Blob)
_TOUCH: Final = (
    update(_BLOBS)
    .where(_BLOBS.c.digest.in_(select(_HELD.c.digest)))
    .values(used_at=bindparam("now"))
    .returning(*(_BLOBS.c[column.key] for column in BLOB_COLUMNS))
)


@dataclass(frozen=True)
class FileRef:
    """A file's name and the digest of its bytes."""

    path: str
    digest: str


def record(session: Session, blobs: Iterable[BlobRef], *, mended: Collection[str] = ()) -> dict[str, BlobRef]:
    """Record stored blobs; returns the rows by digest.

    An existing row keeps its key, which may differ from the caller's; only the digests in ``mended`` get the new key,
    because the object under the old one is damaged.

    Raises:
        IntegrityError: a digest is recorded with another size or other block digests.
    """
    noted: dict[str, BlobRef] = {}
    now = datetime.now(UTC)
    # One lock order on all machines, against deadlocks.
    for part in parts(sorted(blobs, key=lambda blob: blob.digest)):
        found: dict[str, BlobRef] = {}
        # A collector may delete a row between the insert and its use.
        while missing := [blob for blob in part if blob.digest not in found]:
            new = [
                {field.key: getattr(blob, field.key) for field in BLOB_COLUMNS} | {"created_at": now, "used_at": now}
                for blob in missing
            ]
            found.update(
                (row.digest, BlobRef(*row))
                for row in session.execute(insert_if_absent(session, Blob.digest, *BLOB_COLUMNS), new)
            )
            found.update(use(session, [blob.digest for blob in missing if blob.digest not in found]))
        for blob in part:
            there = found[blob.digest]
            if (there.size, there.blocks_digest) != (blob.size, blob.blocks_digest):
                raise IntegrityError(
                    f"Blob {blob.digest} has {blob.size} bytes and blocks {blob.blocks_digest}, but is recorded with "
                    f"{there.size} bytes and blocks {there.blocks_digest}."
                )
            if blob.digest in mended:
                session.execute(update(Blob).where(Blob.digest == blob.digest).values(key=blob.key))
                there = replace(there, key=blob.key)
            noted[blob.digest] = there
    return noted


def get(session: Session, digest: str) -> BlobRef:
    """One blob.

    Raises:
        NotFoundError: no such bytes are stored.
    """
    row = rows(session, [digest]).get(digest)
    if row is None:
        raise NotFoundError(f"There is no blob {digest}.")
    return row


def rows(session: Session, digests: Iterable[str]) -> dict[str, BlobRef]:
    """The rows of recorded ``digests``, by digest."""
    found: dict[str, BlobRef] = {}
    for part in parts(dict.fromkeys(digests)):
        found.update((row.digest, BlobRef(*row)) for row in session.execute(_THOSE, {"digests": part}))
    return found


def use(session: Session, digests: Iterable[str]) -> dict[str, BlobRef]:
    """The same, and restart their grace period: the caller is going to refer to them."""
    now = datetime.now(UTC)
    found: dict[str, BlobRef] = {}
    for part in parts(sorted(set(digests))):
        stale: dict[str, BlobRef] = {}
        for row in session.execute(_USED, {"digests": part}):
            kind = stale if row.used_at < now - _FRESH else found
            kind[row.digest] = BlobRef(*row[:4])
        if stale:
            values = {"digests": list(stale), "now": now, "before": now - _FRESH}
            touched = {row.digest: BlobRef(*row) for row in session.execute(_TOUCH, values)}
            # The others were deleted, or touched by somebody else.
            left = [digest for digest in stale if digest not in touched]
            found |= touched | (rows(session, left) if left else {})
    return found


def visible(session: Session, recorded: Collection[str]) -> frozenset[str]:
    """Those of some recorded digests that are files of revisions and base models visible to the session."""
    if visibility.rights_of(session).unlimited:
        return frozenset(recorded)
    found: set[str] = set()
    for part in parts(dict.fromkeys(recorded)):
        published = (
            select(RevisionFile.digest)
            .join(Revision, Revision.id == RevisionFile.revision_id)
            .join(Adapter, Adapter.id == Revision.adapter_id)
        )
        of_bases = select(BaseFile.digest).join(BaseModelRecord, BaseModelRecord.id == BaseFile.base_id)
        found.update(session.scalars(published.where(RevisionFile.digest.in_(part)).distinct()))
        found.update(session.scalars(of_bases.where(BaseFile.digest.in_(part)).distinct()))
        made = select(BaseModelRecord.index_blob, BaseModelRecord.table_blob).where(
            or_(BaseModelRecord.index_blob.in_(part), BaseModelRecord.table_blob.in_(part))
        )
        found.update(digest for row in session.execute(made) for digest in row if digest in part)
    return frozenset(found)


def require(session: Session, digests: Iterable[str], what: str) -> None:
    """Refuse references to blobs that are not recorded, and touch those that are.

    Raises:
        UnavailableError: naming ``what`` and the first missing digest.
    """
    wanted = dict.fromkeys(digests)
    found = use(session, wanted)
    for digest in wanted:
        if digest not in found:
            raise UnavailableError(f"The bytes {digest} of {what} are no longer stored: run this again.")


def parts(values: Iterable[T]) -> Iterator[list[T]]:
    """Batches that fit into a statement."""
    rest = iter(values)
    while part := list(islice(rest, AT_ONCE)):
        yield part
