"""Which bytes are stored, and where. A blob's row is written after its bytes, and before anything that refers to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final, TypeVar

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.orm import Session

from registry.catalogue import sight
from registry.catalogue.inserting import if_new
from registry.catalogue.tables import Adapter, BaseFile, BaseModelRecord, Blob, Revision, RevisionFile
from registry.errors import IntegrityError, NotFoundError, UnavailableError

T = TypeVar("T")
AT_ONCE: Final = 500  # rows or values in one statement

# Publishers that share a blob would wait for each other if each of them noted its use.
_FRESH: Final = timedelta(seconds=1)

_ROW: Final = (Blob.digest, Blob.size, Blob.blocks_digest, Blob.key)
_THOSE: Final = select(*_ROW).where(Blob.digest.in_(bindparam("digests", expanding=True)))
_USED: Final = select(*_ROW, Blob.used_at).where(Blob.digest.in_(bindparam("digests", expanding=True)))


@dataclass(frozen=True)
class BlobRow:
    """Stored bytes. ``blocks_digest`` names the list of block digests that range reads are checked against."""

    digest: str
    size: int
    blocks_digest: str
    key: str  # of the object in the store


@dataclass(frozen=True)
class FileRef:
    """A file's name and the digest of its bytes."""

    path: str
    digest: str


@dataclass(frozen=True)
class StoredFile:
    """A file of a base model or a revision, with what is needed to read it."""

    path: str
    digest: str
    size: int
    blocks_digest: str
    key: str  # of the object in the store


def record(session: Session, blobs: Iterable[BlobRow], *, mended: Collection[str] = ()) -> dict[str, BlobRow]:
    """Note that these bytes are stored; the answer is what is noted now, by digest.

    What is noted already stays, with the key that it has, so that a caller who stored the same bytes under another
    key sees that key in the answer; only the digests in ``mended`` get the new key, because what was stored under the
    old one is damaged.

    Raises:
        IntegrityError: a digest is noted with another size or other block digests.
    """
    noted: dict[str, BlobRow] = {}
    now = datetime.now(UTC)
    # In one order on all machines: two publishers that wait for each other's rows would be a deadlock.
    for part in parts(sorted(blobs, key=lambda blob: blob.digest)):
        found: dict[str, BlobRow] = {}
        # What was there when it was to be inserted may be gone when it is to be used: deleted by a collector.
        while missing := [blob for blob in part if blob.digest not in found]:
            new = [vars(blob) | {"created_at": now, "used_at": now} for blob in missing]
            found.update(
                (row.digest, BlobRow(*row)) for row in session.execute(if_new(session, Blob.digest, *_ROW), new)
            )
            found.update(use(session, [blob.digest for blob in missing if blob.digest not in found]))
        for blob in part:
            there = found[blob.digest]
            if (there.size, there.blocks_digest) != (blob.size, blob.blocks_digest):
                raise IntegrityError(
                    f"Blob {blob.digest} has {blob.size} bytes and blocks {blob.blocks_digest}, but is noted with "
                    f"{there.size} bytes and blocks {there.blocks_digest}."
                )
            if blob.digest in mended:
                session.execute(update(Blob).where(Blob.digest == blob.digest).values(key=blob.key))
                there = blob
            noted[blob.digest] = there
    return noted


def get(session: Session, digest: str) -> BlobRow:
    """One blob.

    Raises:
        NotFoundError: no such bytes are stored.
    """
    row = rows(session, [digest]).get(digest)
    if row is None:
        raise NotFoundError(f"There is no blob {digest}.")
    return row


def rows(session: Session, digests: Iterable[str]) -> dict[str, BlobRow]:
    """Those of ``digests`` that are noted as stored, by digest."""
    found: dict[str, BlobRow] = {}
    for part in parts(dict.fromkeys(digests)):
        found.update((row.digest, BlobRow(*row)) for row in session.execute(_THOSE, {"digests": part}))
    return found


def use(session: Session, digests: Iterable[str]) -> dict[str, BlobRow]:
    """The same, for someone who is going to refer to them: a collector's grace starts anew."""
    now = datetime.now(UTC)
    wanted = sorted(set(digests))
    found: dict[str, BlobRow] = {}
    stale: list[str] = []
    for part in parts(wanted):
        for row in session.execute(_USED, {"digests": part}):
            found[row.digest] = BlobRow(row.digest, row.size, row.blocks_digest, row.key)
            if row.used_at < now - _FRESH:
                stale.append(row.digest)
    if not stale:
        return found
    for part in parts(sorted(stale)):
        query = select(Blob.digest).where(Blob.digest.in_(part), Blob.used_at < now - _FRESH).order_by(Blob.digest)
        # Locked in one order, and only against others who change the row.
        held = session.scalars(query.with_for_update(key_share=True)).all()
        if held:
            session.execute(update(Blob).where(Blob.digest.in_(held)).values(used_at=now))
    return rows(session, wanted)


def known(session: Session, digests: Iterable[str]) -> frozenset[str]:
    """Those of ``digests`` that are noted as stored."""
    return frozenset(rows(session, digests))


def visible(session: Session, digests: Iterable[str]) -> frozenset[str]:
    """Those of ``digests`` that the session may know to be stored: files of revisions and base models that it sees."""
    if sight.rights_of(session).unlimited:
        return known(session, digests)
    found: set[str] = set()
    for part in parts(dict.fromkeys(digests)):
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
    """Refuse to refer to bytes that are not stored, and note the use of those that are.

    Raises:
        UnavailableError: naming ``what`` and the first missing digest.
    """
    wanted = dict.fromkeys(digests)
    found = use(session, wanted)
    for digest in wanted:
        if digest not in found:
            raise UnavailableError(f"The bytes {digest} of {what} are not stored any more: do it again.")


def parts(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in lists that fit into a statement."""
    rest = iter(values)
    while part := list(islice(rest, AT_ONCE)):
        yield part
