"""Rows of stored blobs, and what combinations are made of.

A row is written after the bytes, and before anything that refers to it. What stands on a revision: its children,
combinations of it, and what stands on those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database import visibility
from registry.catalogue.database.tables import (
    Adapter,
    BaseFile,
    BaseModelRecord,
    Blob,
    Revision,
    RevisionFile,
    RevisionSource,
    table_of,
)
from registry.catalogue.database.upsert import insert_if_absent
from registry.catalogue.database.visibility import IGNORE_RIGHTS
from registry.digest import BlobRef
from registry.errors import IntegrityError, NotFoundError, UnavailableError
from registry.schemas.tree import CombinedOf

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


_SOURCE, _BELOW = aliased(Revision), aliased(Revision)


def sources_shown(session: Session, combined: Sequence[int]) -> dict[int, tuple[CombinedOf, ...]]:
    """The sources of some combinations, by key; of one whose adapter the session does not see, the weight alone."""
    query = (
        select(RevisionSource.revision_id, RevisionSource.weight, _SOURCE.number, _SOURCE.digest, Adapter.path)
        .join(_SOURCE, _SOURCE.id == RevisionSource.source_id)
        .outerjoin(Adapter, Adapter.id == _SOURCE.adapter_id)
        .order_by(RevisionSource.revision_id, RevisionSource.place)
    )
    found: dict[int, list[CombinedOf]] = {}
    for part in parts(combined):
        for row in session.execute(query.where(RevisionSource.revision_id.in_(part))):
            seen = row.path is not None
            one = CombinedOf(
                reference=f"{row.path}@{row.number}" if seen else None,
                digest=row.digest if seen else None,
                weight=row.weight,
            )
            found.setdefault(row.revision_id, []).append(one)
    return {key: tuple(sources) for key, sources in found.items()}


def pinned_sources(session: Session, combination: int) -> tuple[tuple[int, float], ...]:
    """The keys of the sources of a combination, seen or not, with their weights, in order."""
    query = select(RevisionSource.source_id, RevisionSource.weight).where(RevisionSource.revision_id == combination)
    return tuple((row.source_id, row.weight) for row in session.execute(query.order_by(RevisionSource.place)))


def standing_on(session: Session, keys: Iterable[int], options: dict[str, Any] = IGNORE_RIGHTS) -> set[int]:
    """Everything that contains some revisions: what was trained on them or combined of them, and so on; with them.

    ``options`` are those of the queries: whether deleted revisions count.
    """
    found: set[int] = set()
    waiting = set(keys)
    while waiting:
        below: set[int] = set()
        for part in parts(sorted(waiting)):
            chain = select(Revision.id).where(Revision.id.in_(part)).cte("chain", recursive=True)
            chain = chain.union(select(_BELOW.id).join(chain, _BELOW.parent_id == chain.c.id))
            below.update(session.scalars(select(chain.c.id), execution_options=options))
        found |= waiting | below
        waiting = combined_of(session, below, options) - found
    return found


def combined_of(session: Session, keys: Iterable[int], options: dict[str, Any] = IGNORE_RIGHTS) -> set[int]:
    """The keys of the combinations that have one of some revisions as a source; ``options`` as of `standing_on`."""
    found: set[int] = set()
    for part in parts(sorted(keys)):
        own = select(RevisionSource.revision_id).where(RevisionSource.source_id.in_(part))
        found.update(session.scalars(select(Revision.id).where(Revision.id.in_(own)), execution_options=options))
    return found
