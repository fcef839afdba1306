"""Blobs read in large pieces that stay in memory: for media where each read is a request.

A piece is checked before it is kept, and shared by all who read that blob. One who reads in order gets the next pieces
asked for in advance, several at the same time.
"""

from __future__ import annotations

import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from registry.digest import BlobRef
from registry.memory import MemoryCache
from registry.storage.blobs import BlobStore
from registry.storage.reading import BlobReader

PIECE: Final = 8 << 20
AHEAD: Final = 8  # pieces
THREADS: Final = 8
_HEADERS: Final = 32  # of a piece: as much at the beginning of a blob as most headers have
_NEAR: Final = 2  # pieces between the threads of one who reads in order
_LARGE: Final = 1 << 20
_LEAST: Final = 4 << 10  # what a small piece costs with all that is noted of it
_RUNS: Final = 16  # readers of one open blob that are told apart

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


class CachingBlobs:
    """The blobs of a store, by way of the memory where that saves requests."""

    def __init__(self, store: BlobStore, memory: MemoryCache) -> None:
        self._store = store
        self._memory = memory

    def open_blob(self, blob: BlobRef) -> BlobReader | CachedReader:
        """Open a blob for checked reads."""
        reader = self._store.open(blob)
        if reader.ahead == 0 or self._memory.limit("rows") < PIECE:
            return reader
        return CachedReader(reader, blob.key, self._memory)


@dataclass
class _Run:
    """One who reads in order."""

    last: int  # the furthest piece that was read
    read: int = 0  # bytes
    asked: int = 0  # pieces before this one were asked for in advance


class CachedReader:
    """A `registry.files.source.ByteSource` over one blob; safe for many threads."""

    def __init__(self, reader: BlobReader, key: str, memory: MemoryCache) -> None:
        self._reader = reader
        self._key = key
        self._memory = memory
        self._most = max(0, min(AHEAD, int(memory.limit("rows")) // (4 * PIECE)))
        self._pieces = -(-reader.size // PIECE)
        self._lock = threading.Lock()
        self._runs: list[_Run] = []  # who read the longest ago first
        self._closed = False

    @property
    def size(self) -> int:
        return self._reader.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer = buffer.cast("B")
        stop = offset + len(buffer)
        if offset < 0 or stop > self.size:
            self._reader.read_into(offset, buffer)  # which says so
        if not buffer:
            return
        if self._is_header(stop):
            self._reader.read_into(offset, buffer)
            return
        self._ask_in_advance(offset, stop)
        for index in range(offset // PIECE, (stop - 1) // PIECE + 1):
            start = index * PIECE
            begin, end = max(offset, start), min(stop, start + PIECE)
            buffer[begin - offset : end - offset] = memoryview(self._piece(index))[begin - start : end - start]

    def held(self, start: int, stop: int) -> memoryview | None:
        """The bytes ``start`` to ``stop`` of one piece, which is read if it is not there; None: of several pieces."""
        index = start // PIECE
        if not 0 <= start < stop <= min(self.size, (index + 1) * PIECE) or self._is_header(stop):
            return None
        self._ask_in_advance(start, stop)
        return memoryview(self._piece(index))[start - index * PIECE : stop - index * PIECE]

    def close(self) -> None:
        """Release the blob; its pieces stay."""
        self._closed = True
        self._reader.close()

    def _is_header(self, stop: int) -> bool:
        """Whether a read that ends there is one of the header alone: of many shards, nothing else may be needed."""
        return stop <= PIECE // _HEADERS and self._pieces > 1 and not self._memory.has("rows", (self._key, 0))

    def _ask_in_advance(self, start: int, stop: int) -> None:
        for index in self._in_advance(start // PIECE, (stop - 1) // PIECE, stop - start):
            _pool().submit(self._fetch, index)

    def _in_advance(self, first: int, last: int, length: int) -> range:
        """The pieces to ask for now: the rest of a long read, and what follows it where much was read in order."""
        with self._lock:
            run = self._run(first)
            run.last = max(run.last, last)
            run.read += length
            halves = run.read // (PIECE // 2)
            window = min(self._most, 1 << halves.bit_length() >> 1)
            begin = max(run.asked, first + 1)
            run.asked = max(begin, min(self._pieces, last + 1 + window))
            return range(begin, run.asked)

    def _run(self, first: int) -> _Run:
        near = [run for run in self._runs if run.last - _NEAR <= first <= run.last + _NEAR]
        run = max(near, key=lambda one: one.last) if near else _Run(first)
        self._runs = [*(one for one in self._runs if one is not run), run][-_RUNS:]
        return run

    def _fetch(self, index: int) -> None:
        # What fails here fails again, and is told, when somebody reads it.
        if not self._closed and not self._memory.has("rows", (self._key, index)):
            self._piece(index)

    def _piece(self, index: int) -> mmap.mmap | bytearray:
        return self._memory.get("rows", (self._key, index), lambda: self._read(index), _weigh)

    def _read(self, index: int) -> mmap.mmap | bytearray:
        piece = _room(min(PIECE, self.size - index * PIECE))
        self._reader.read_into(index * PIECE, memoryview(piece))
        return piece


def _weigh(piece: mmap.mmap | bytearray) -> int:
    return max(len(piece), _LEAST)


def _room(size: int) -> mmap.mmap | bytearray:
    """Memory for a piece, given back to the system with it.

    Private, because pages of shared memory cost twice as much to touch first; no huge pages, which a virtual machine
    that gets its memory in small ones pays three times as much for.
    """
    if size < _LARGE:
        return bytearray(size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _pool() -> ThreadPoolExecutor:
    """Threads that wait for the store; of this process, because threads do not survive a fork."""
    with _lock:
        pool = _pools.get(os.getpid())
        if pool is None:
            pool = _pools[os.getpid()] = ThreadPoolExecutor(THREADS, thread_name_prefix="ahead")
        return pool
