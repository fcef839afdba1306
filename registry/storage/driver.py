"""The contract of object drivers: keys and bytes only. All other logic is in `registry.storage.blobs`.

Keys are relative, ``/``-separated, and made by `registry.storage.driver` only; `check_key` says what is legal. An
object appears under its key atomically and complete, and is never changed or replaced. Missing keys raise
`registry.errors.NotFoundError`; a full disk raises `UnavailableError` (``disk_full``); a denied write raises
`NotAllowedError` (``read_only``); any other failure of the store raises `UnavailableError`. No other exception leaves a
driver. The other half of a driver is uploads by clients: `registry.storage.staging`.

Defines the key layout; keys are made nowhere else.

::

    <store>/
      blobs/sha256/ab/abcd...-01234567   a blob: the 64 hex digits of its sha256, and 8 random ones
      blocks/sha256/ab/abcd...-01234567  the block list of that blob: one 32-byte BLAKE3 digest for each block of
                                         256 KiB; a blob of at most one block has none (see `registry.storage.streams`)
      staging/                           client uploads, until they are checked (see `registry.storage.staging`)
      incoming/                          on S3 only: objects without a key yet (see `registry.storage.s3.writing`)
      tmp/                               on file systems only: the same (see `registry.storage.staging`)

Every blob that is written gets a new key, even if the same bytes are stored already: an object is never overwritten,
and a collector never deletes what another writer has just stored. Only the catalogue knows the key of a blob. Keys
without the random digits were made by earlier versions and stay readable. The two hex digits spread blobs over 256
folders, so that no folder gets too large to list.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol

from registry.digest import PREFIX, hex_of
from registry.errors import IntegrityError

BLOBS: Final = "blobs/sha256/"
BLOCKS: Final = "blocks/sha256/"
STAGING: Final = "staging/"
INCOMING: Final = "incoming/"
TMP: Final = "tmp/"
RESERVED: Final = (STAGING, INCOMING, TMP)
"""Prefixes used by drivers internally; no object has a key that starts with one."""


def new_blob_key(digest: str) -> str:
    """An unused key for a blob of this digest."""
    name = hex_of(digest)
    return f"{BLOBS}{name[:2]}/{name}-{secrets.token_hex(4)}"


def blocks_key(blob_key: str) -> str:
    """The key of the block list of the blob under ``blob_key``."""
    return BLOCKS + _name(blob_key, BLOBS)


def blob_key_of(key: str) -> str:
    """The key of the blob that an object belongs to: itself, or, for a block list, the key of its blob."""
    return BLOBS + _name(key, BLOCKS) if key.startswith(BLOCKS) else BLOBS + _name(key, BLOBS)


def digest_of(key: str) -> str:
    """The digest of a blob, from its key or that of its block list."""
    return PREFIX + key.rpartition("/")[2].partition("-")[0]


def _name(key: str, prefix: str) -> str:
    if not key.startswith(prefix):
        raise ValueError(f"not a key below {prefix}: {key!r}")
    return key[len(prefix) :]


StoredBy = Literal["copy", "reflink", "link"]

_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")


def check_key(key: str) -> str:
    """Return the key if it is legal: at least two segments, none starts with a dot, the first is not reserved."""
    if _KEY.fullmatch(key) is None or key.startswith(RESERVED):
        raise ValueError(f"not an object key: {key!r}")
    return key


def key_taken(key: str, place: str) -> IntegrityError:
    """The error for a commit under the key of an existing object, which is not changed."""
    return IntegrityError(
        f"There is an object {key} in {place} already, and objects are never overwritten: nothing was stored; run this "
        "again, which uses another key."
    )


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing.

    ``modified`` (UTC, by the store's clock) is between the start of the write and the moment the object appeared under
    its key; a collector's grace period has to be longer than it takes to write an object and to publish it.
    """

    key: str
    size: int
    modified: datetime


class ObjectReader(Protocol):
    """An open object, readable by range from many threads at once."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def ahead(self) -> int:
        """How many bytes a sequential reader should prefetch; 0 if that gains nothing."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``; raises `IntegrityError` if the object is too short."""

    def close(self) -> None:
        """Release the object. Idempotent."""


class ObjectWriter(Protocol):
    """An object that has no key yet. `ObjectDriver.commit` gives it one.

    The key comes last, because it is made from the digest of the bytes. Leaving the ``with`` block without a commit, by
    exception or not, leaves nothing behind. Not thread-safe.
    """

    @property
    def stored_by(self) -> StoredBy:
        """How the bytes get into the store: ``copy`` if they are written here."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""

    def open(self) -> ObjectReader:
        """Read back the object's content; nothing may be written after that. Close it before leaving the writer."""

    def __enter__(self) -> ObjectWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Commit:
    """An object to make visible under an unused key."""

    writer: ObjectWriter
    key: str


class ObjectDriver(Protocol):
    """Keys and bytes in one store."""

    @property
    def place(self) -> str:
        """Where the objects are, for messages: a folder or a redacted URL."""

    def ping(self) -> None:
        """Check cheaply that the store can be used; raises the error that says what is wrong."""

    def writer(self) -> ObjectWriter:
        """Start an object."""

    def take_file(self, file: Path, *, link: bool) -> ObjectWriter | None:
        """Start an object from a local file without copying its bytes: a hard link with ``link``, else a reflink.

        Returns None, without effect, if the store can't; the caller then writes a copy.
        Raises `UsageError` with ``link`` if it can't be linked (other file system).
        """

    def commit(self, commits: Sequence[Commit]) -> None:
        """Make objects visible and durable: they survive a power cut once this returns.

        A taken key raises `IntegrityError` and its object stays. Objects are committed together so that a store can
        make many durable at the price of one. If it raises, each object is either visible and complete or absent. The
        stored bytes are those written: a store that could have changed them on the way is read back.
        """

    def open(self, key: str, size: int | None = None) -> ObjectReader:
        """Open an object for reading.

        ``size``, if it is known and the first read may find the object missing or shorter: it saves a request to
        a store that would be queried for it.
        """

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None if it does not exist."""

    def delete(self, key: str) -> None:
        """Remove an object. Idempotent."""

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix`` (any text, not only whole segments), sorted by key."""

    def clear_litter(self) -> int:
        """Remove what killed writers left, never what a live writer has locked; returns how many were removed."""

    def close(self) -> None:
        """Release resources; the driver must not be used after that."""
