"""Which bytes are stored. A blob's row is written after its bytes, and before anything that refers to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Final, TypeVar

from sqlalchemy import Executable, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session

from registry.catalogue.tables import Blob
from registry.errors import IntegrityError, NotFoundError, UnavailableError

T = TypeVar("T")
_AT_ONCE: Final = 500  # rows or values in one statement


@dataclass(frozen=True)
class BlobRow:
    """Stored bytes. ``blocks_digest`` names the list of block digests that range reads are checked against."""

    digest: str
    size: int
    blocks_digest: str


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


def record(session: Session, blobs: Iterable[BlobRow]) -> None:
    """Note that these bytes are stored; what is noted already stays.

    Raises:
        IntegrityError: a digest is noted with another size or other block digests.
    """
    now = datetime.now(UTC)
    for part in _parts(blobs):
        values = [
            {"digest": blob.digest, "size": blob.size, "blocks_digest": blob.blocks_digest, "created_at": now}
            for blob in part
        ]
        session.execute(_insert_new(session), values)
        noted = _rows(session, [blob.digest for blob in part])
        for blob in part:
            if noted[blob.digest] != blob:
                raise IntegrityError(
                    f"Blob {blob.digest} has {blob.size} bytes and blocks {blob.blocks_digest}, but is noted with "
                    f"{noted[blob.digest].size} bytes and blocks {noted[blob.digest].blocks_digest}."
                )


def _insert_new(session: Session) -> Executable:
    # The same clause on both, but no common construct for it.
    if session.get_bind().dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # slow to import, and not needed with SQLite

        return postgresql.insert(Blob).on_conflict_do_nothing(index_elements=[Blob.digest])
    return sqlite.insert(Blob).on_conflict_do_nothing(index_elements=[Blob.digest])


def get(session: Session, digest: str) -> BlobRow:
    """One blob.

    Raises:
        NotFoundError: no such bytes are stored.
    """
    row = _rows(session, [digest]).get(digest)
    if row is None:
        raise NotFoundError(f"There is no blob {digest}.")
    return row


def known(session: Session, digests: Iterable[str]) -> frozenset[str]:
    """Those of ``digests`` that are noted as stored."""
    found: set[str] = set()
    for part in _parts(dict.fromkeys(digests)):
        found.update(session.scalars(select(Blob.digest).where(Blob.digest.in_(part))))
    return frozenset(found)


def require(session: Session, digests: Iterable[str], what: str) -> None:
    """Refuse to refer to bytes that are not stored.

    Raises:
        UnavailableError: naming ``what`` and the first missing digest.
    """
    wanted = dict.fromkeys(digests)
    found = known(session, wanted)
    for digest in wanted:
        if digest not in found:
            raise UnavailableError(f"The bytes {digest} of {what} are not stored any more: do it again.")


def _rows(session: Session, digests: list[str]) -> dict[str, BlobRow]:
    rows = session.execute(select(Blob.digest, Blob.size, Blob.blocks_digest).where(Blob.digest.in_(digests)))
    return {row.digest: BlobRow(row.digest, row.size, row.blocks_digest) for row in rows}


def _parts(values: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(values)
    while part := list(islice(rest, _AT_ONCE)):
        yield part
