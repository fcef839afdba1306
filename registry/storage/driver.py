"""The contract of object drivers: dumb keys and bytes. All cleverness lives once, in `registry.storage.blobs`.

Keys are relative, ``/``-separated, made by `registry.storage.layout` only. An object appears under its key whole or
not at all, and is never changed afterwards. Missing keys raise `registry.errors.NotFoundError`; a full disk raises
`UnavailableError` (``disk_full``); what can't be written raises `NotAllowedError` (``read_only``); anything
else that the medium does raises `UnavailableError`. No other exception leaves a driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

StoredBy = Literal["copy", "reflink", "link"]


class ObjectWriter(Protocol):
    """Receives an object's bytes; nothing is visible under the key before `commit`.

    Leaving the ``with`` block without `commit`, by exception or not, leaves nothing behind.
    """

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""

    def commit(self) -> None:
        """Make the object visible, durably. An object that is there already is kept, which is no error."""

    def __enter__(self) -> ObjectWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ObjectReader(Protocol):
    """An open object, readable by range from many threads at once."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``; a short object raises `IntegrityError`."""

    def close(self) -> None:
        """Release the object. Closing twice is allowed."""


class ObjectDriver(Protocol):
    """Keys and bytes on one medium."""

    def writer(self, key: str) -> ObjectWriter:
        """Start an object."""

    def open(self, key: str) -> ObjectReader:
        """Open an object for reading."""

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None when there is none."""

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with ``prefix``, sorted."""

    def take_file(self, key: str, file: Path, *, link: bool) -> StoredBy | None:
        """Store a local file without copying its bytes: as a hard link with ``link``, else by reflink.

        Returns None, with nothing done, where the medium can't; the caller then writes a copy.
        With ``link`` and no way to link (other file system): `UsageError` that says so.
        """
