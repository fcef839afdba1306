"""The contract of object drivers: dumb keys and bytes. All cleverness lives once, in `registry.storage.blobs`.

Keys are relative, ``/``-separated, made by `registry.storage.layout` only; `check_key` says what is legal. An object
appears under its key whole or not at all, and is never changed afterwards (`Commit.replace` puts a whole new object
in the place of one that was found damaged). Missing keys raise `registry.errors.NotFoundError`; a full disk raises
`UnavailableError` (``disk_full``); what can't be written raises `NotAllowedError` (``read_only``); anything
else that the medium does raises `UnavailableError`. No other exception leaves a driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol

StoredBy = Literal["copy", "reflink", "link"]

_KEY: Final = re.compile(r"(?!tmp/)[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")


def check_key(key: str) -> str:
    """The key itself, when it is legal: at least two segments, none starts with a dot, the first is not ``tmp``."""
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"not an object key: {key!r}")
    return key


class ObjectReader(Protocol):
    """An open object, readable by range from many threads at once."""

    @property
    def size(self) -> int:
        """Bytes."""

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
        """How the bytes come to the medium: ``copy`` when they are written here."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""

    def open(self) -> ObjectReader:
        """Read back what the object holds so far; closed before the writer is left."""

    def __enter__(self) -> ObjectWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Commit:
    """One object to make visible. ``replace`` only for an object that was found damaged."""

    writer: ObjectWriter
    key: str
    replace: bool = False


class ObjectDriver(Protocol):
    """Keys and bytes on one medium."""

    @property
    def place(self) -> str:
        """Where the objects are, for people: a folder or a URL without credentials."""

    def writer(self) -> ObjectWriter:
        """Start an object."""

    def take_file(self, file: Path, *, link: bool) -> ObjectWriter | None:
        """Start an object from a local file without copying its bytes: a hard link with ``link``, else a reflink.

        Returns None, with nothing done, where the medium can't; the caller then writes a copy.
        With ``link`` and no way to link (other file system): `UsageError` that says so.
        """

    def commit(self, commits: Sequence[Commit]) -> list[bool]:
        """Make objects visible, in this order and durably: they are there after a power cut once this returns.

        An object that is there already is kept, which is no error: its place in the answer is False. Objects are
        committed together so that a medium can make many durable at the price of one. When it raises, each object
        is either visible as a whole or not there.
        """

    def settle(self, keys: Sequence[str]) -> None:
        """Make durable the objects that the caller found under these keys: another process may be just committing."""

    def open(self, key: str) -> ObjectReader:
        """Open an object for reading."""

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None when there is none."""

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with ``prefix`` (any text, not only whole segments), sorted."""

    def clear_litter(self) -> int:
        """Remove what killed writers left, never what a live writer holds; returns how many were removed."""
