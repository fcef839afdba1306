"""Objects in memory: for tests, and for what must not outlive the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from registry.errors import IntegrityError, NotFoundError, UsageError
from registry.storage.driver import Commit, ObjectReader, ObjectWriter, StoredBy, check_key


class MemoryReader:
    """An object's bytes; they stay readable after the object is deleted."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        piece = self._data[offset : offset + len(buffer)]
        if len(piece) < len(buffer):
            raise IntegrityError(f"An object ends at byte {len(self._data)}, {offset + len(buffer)} were expected.")
        buffer[:] = piece

    def close(self) -> None:
        """There is nothing to release."""


class MemoryWriter:
    """An uncommitted object of `MemoryDriver`."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def stored_by(self) -> StoredBy:
        return "copy"

    @property
    def data(self) -> bytes:
        """What was written so far."""
        return bytes(self._data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._data += data

    def open(self) -> ObjectReader:
        return MemoryReader(self.data)

    def __enter__(self) -> MemoryWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._data = bytearray()


class MemoryDriver:
    """A dict of objects; one lock makes commits atomic."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return "memory"

    def writer(self) -> ObjectWriter:
        return MemoryWriter()

    def take_file(self, file: Path, *, link: bool) -> ObjectWriter | None:
        if link:
            raise UsageError(
                f"{file} can't be linked into a store in memory: leave out the link option to store a copy."
            )
        return None

    def commit(self, commits: Sequence[Commit]) -> list[bool]:
        return [self._commit(check_key(one.key), one) for one in commits]

    def _commit(self, key: str, one: Commit) -> bool:
        if not isinstance(one.writer, MemoryWriter):
            raise TypeError(f"a {type(one.writer).__name__} is no writer of this driver")
        data = one.writer.data
        with self._lock:
            if key in self._objects and not one.replace:
                return False
            self._objects[key] = data
            return True

    def settle(self, keys: Sequence[str]) -> None:
        del keys

    def open(self, key: str) -> ObjectReader:
        data = self._objects.get(check_key(key))
        if data is None:
            raise NotFoundError(f"There is no object {key} in memory.")
        return MemoryReader(data)

    def size(self, key: str) -> int | None:
        data = self._objects.get(check_key(key))
        return None if data is None else len(data)

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(check_key(key), None)

    def keys(self, prefix: str) -> Iterator[str]:
        with self._lock:
            found = sorted(key for key in self._objects if key.startswith(prefix))
        yield from found

    def clear_litter(self) -> int:
        return 0
