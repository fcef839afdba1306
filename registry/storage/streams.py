"""Bytes to digest, one buffer after the other: from a user's file, from a stored object, from memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from registry.errors import RegistryError
from registry.folders.errors import ErrorMapping, unreadable_file
from registry.storage.driver import ObjectReader

_PIECE: Final = 8 << 20


class FileStream:
    """A user's file. The sentences name the file, because the store is not to blame."""

    def __init__(self, file: Path) -> None:
        self._path = file
        with ErrorMapping(unreadable_file, file):
            self._file = file.open("rb", buffering=0)

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns the bytes put there, fewer than fit only at the end."""
        filled = 0
        with ErrorMapping(unreadable_file, self._path):
            while filled < len(buffer) and (count := self._file.readinto(buffer[filled:])):
                filled += count
        return filled

    def __enter__(self) -> FileStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


class ObjectStream:
    """A stored object, closed on leaving. Where reads take long, the next pieces are read while one is worked on."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._at = 0
        self._ahead = _Ahead(reader) if reader.size > _PIECE and reader.ahead else None

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns the bytes put there, fewer than fit only at the end."""
        count = min(len(buffer), self._reader.size - self._at)
        if self._ahead is not None:
            self._ahead.fill(buffer[:count])
        elif count:
            self._reader.read_into(self._at, buffer[:count])
        self._at += count
        return count

    def __enter__(self) -> ObjectStream:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._reader.close()


class _Ahead:
    """The pieces of an object in order, some of them on their way."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._asked = 0
        self._coming: deque[Future[memoryview]] = deque()
        self._piece = memoryview(b"")
        depth = max(1, reader.ahead // _PIECE)
        self._pool = ThreadPoolExecutor(max_workers=depth, thread_name_prefix="read-ahead")
        for _ in range(depth):
            self._ask()

    def fill(self, buffer: memoryview) -> None:
        while buffer:
            if not self._piece:
                self._piece = self._coming.popleft().result()
                self._ask()
            count = min(len(buffer), len(self._piece))
            buffer[:count] = self._piece[:count]
            self._piece = self._piece[count:]
            buffer = buffer[count:]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _ask(self) -> None:
        length = min(_PIECE, self._reader.size - self._asked)
        if length:
            self._coming.append(self._pool.submit(self._read, self._asked, length))
            self._asked += length

    def _read(self, offset: int, length: int) -> memoryview:
        piece = memoryview(bytearray(length))
        self._reader.read_into(offset, piece)
        return piece


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


class ChunkStream:
    """Bytes that are made in order, in chunks of any size."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns the bytes put there, fewer than fit only at the end."""
        filled = 0
        while filled < len(buffer):
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = chunk
            count = min(len(buffer) - filled, len(self._rest))
            buffer[filled : filled + count] = self._rest[:count]
            self._rest = self._rest[count:]
            filled += count
        return filled


class Patient:
    """A watcher of chunks whose refusal waits until all have passed: wrong bytes may look like anything."""

    def __init__(self, watch: Callable[[int, memoryview], None]) -> None:
        self._watch = watch
        self._refusal: RegistryError | None = None

    def __call__(self, offset: int, chunk: memoryview) -> None:
        if self._refusal is None:
            try:
                self._watch(offset, chunk)
            except RegistryError as refusal:
                self._refusal = refusal

    def tell(self) -> None:
        """Raise what was refused; the bytes are the right ones."""
        if self._refusal is not None:
            raise self._refusal
