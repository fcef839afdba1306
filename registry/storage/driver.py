"""The contract of object drivers: dumb keys and bytes. All cleverness lives once, in `registry.storage.blobs`.

Keys are relative, ``/``-separated, made by `registry.storage.layout` only; `check_key` says what is legal. An object
appears under its key whole or not at all, and is never changed or replaced afterwards. Missing keys raise
`registry.errors.NotFoundError`; a full disk raises `UnavailableError` (``disk_full``); what can't be written raises
`NotAllowedError` (``read_only``); anything else that the store does raises `UnavailableError`. No other exception
leaves a driver. What clients upload by themselves is the other half of a driver: `registry.storage.staging`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol

from registry.errors import IntegrityError
from registry.storage.layout import RESERVED

StoredBy = Literal["copy", "reflink", "link"]

_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")


def check_key(key: str) -> str:
    """The key itself, when it is legal: at least two segments, none starts with a dot, the first is not reserved."""
    if _KEY.fullmatch(key) is None or key.startswith(RESERVED):
        raise ValueError(f"not an object key: {key!r}")
    return key


def key_taken(key: str, place: str) -> IntegrityError:
    """The error of a commit that met an object under its key, which stays as it is."""
    return IntegrityError(
        f"There is an object {key} in {place} already, and objects are never overwritten: nothing was stored; "
        "run this again, which takes another key."
    )


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a list.

    ``modified`` (UTC) is not before the bytes began to come and not after the object appeared under its key, by the
    store's clock; a collector's grace period has to be longer than it takes to write an object and to publish it.
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
        """How many bytes one who reads all of it asks for in advance; 0 where that gains nothing."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``; a short object raises `IntegrityError`."""

    def close(self) -> None:
        """Release the object. Closing twice is allowed."""


class ObjectWriter(Protocol):
    """An object that has no key yet. `ObjectDriver.commit` gives it one.

    The key is given last, because it is made from the digest of the bytes. Leaving the ``with`` block without a
    commit, by exception or not, leaves nothing behind. Used from one thread at a time.
    """

    @property
    def stored_by(self) -> StoredBy:
        """How the bytes come to the store: ``copy`` when they are written here."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""

    def open(self) -> ObjectReader:
        """Read back what the object holds; nothing is written after that. Closed before the writer is left."""

    def __enter__(self) -> ObjectWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Commit:
    """One object to make visible under a key that no object has."""

    writer: ObjectWriter
    key: str


class ObjectDriver(Protocol):
    """Keys and bytes in one store."""

    @property
    def place(self) -> str:
        """Where the objects are, for people: a folder or a URL without credentials."""

    def ping(self) -> None:
        """See cheaply that the store can be used; raises the error that says what is wrong."""

    def writer(self) -> ObjectWriter:
        """Start an object."""

    def take_file(self, file: Path, *, link: bool) -> ObjectWriter | None:
        """Start an object from a local file without copying its bytes: a hard link with ``link``, else a reflink.

        Returns None, with nothing done, where the store can't; the caller then writes a copy.
        With ``link`` and no way to link (other file system): `UsageError` that says so.
        """

    def commit(self, commits: Sequence[Commit]) -> None:
        """Make objects visible, durably: they are there after a power cut once this returns.

        A key that is taken raises `IntegrityError` and the object there stays. Objects are committed together so that
        a store can make many durable at the price of one. When it raises, each object is either visible as a whole
        or not there. What was written is what is there: a store that could have changed it on the way is read back.
        """

    def open(self, key: str) -> ObjectReader:
        """Open an object for reading."""

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None when there is none."""

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix`` (any text, not only whole segments), sorted by key."""

    def clear_litter(self) -> int:
        """Remove what killed writers left, never what a live writer holds; returns how many were removed."""

    def close(self) -> None:
        """Release what the driver holds open; nothing is done with it after that."""
