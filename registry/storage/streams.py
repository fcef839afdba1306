"""Bytes to digest, one buffer after the other: from a user's file, from a stored object, from memory."""

from __future__ import annotations

import os
from pathlib import Path

from registry.errors import NotFoundError, UnavailableError
from registry.storage.driver import ObjectReader


class FileStream:
    """A user's file. The sentences name the file, because the store is not to blame."""

    def __init__(self, file: Path) -> None:
        self._path = file
        try:
            self._file = file.open("rb", buffering=0)
        except OSError as error:
            raise self._error(error) from error

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns the bytes put there, fewer than fit only at the end."""
        filled = 0
        try:
            while filled < len(buffer) and (count := self._file.readinto(buffer[filled:])):
                filled += count
        except OSError as error:
            raise self._error(error) from error
        return filled

    def _error(self, error: OSError) -> NotFoundError | UnavailableError:
        if isinstance(error, FileNotFoundError):
            return NotFoundError(f"There is no file {self._path}: check the name, or whether something removed it.")
        reason = os.strerror(error.errno) if error.errno else str(error)
        return UnavailableError(f"The file {self._path} can't be read ({reason}): make it readable and run this again.")

    def __enter__(self) -> FileStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


class ObjectStream:
    """A stored object, closed on leaving."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._at = 0

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns the bytes put there, fewer than fit only at the end."""
        count = min(len(buffer), self._reader.size - self._at)
        self._reader.read_into(self._at, buffer[:count])
        self._at += count
        return count

    def __enter__(self) -> ObjectStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.close()


class BytesStream:
    """Bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._rest = memoryview(data).cast("B")

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns the bytes put there, fewer than fit only at the end."""
        piece = self._rest[: len(buffer)]
        buffer[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        return len(piece)
