"""Caches blobs in memory in large pieces, for stores where each read is a request.

A piece is verified before it is cached, and shared by all readers of the blob. For a sequential reader the next pieces
are prefetched, several in parallel.

A store that keeps no bytes of files: a blob is a symbolic link to the file that it was made of.

For registries that are thrown away, in which a plan is made of folders that lie elsewhere: they may be large, and
nothing about them may change, not even a count of hard links. Blobs are read as those of any store: their blocks are
checked, so that a file that is changed meanwhile is noticed.
"""

from __future__ import annotations

import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.digest import BlobRef
from registry.errors import NotFoundError
from registry.folders.local_files import ErrorMapping, telling_unusable, unreadable_file
from registry.memory import MemoryCache
from registry.storage.blobs import BlobStore, StagedBlob
from registry.storage.driver import ObjectReader, ObjectWriter
from registry.storage.file_objects import FileReader, FileWriter
from registry.storage.filesystem import FilesystemDriver
from registry.storage.reading import Advance, BlobReader, Watch, digest_object
from registry.storage.staging import TMP, TemporaryFile


class ReferencingDriver(FilesystemDriver):
    """Objects below ``root``, those of files as symbolic links."""

    def take_file(self, file: Path, *, link: bool) -> ObjectWriter:
        del link
        folder = self._root / TMP
        with telling_unusable(self._root):
            folder.mkdir(parents=True, exist_ok=True)
            return _Referring(self._root, TemporaryFile(folder), file.absolute())


class ReferencingStore(BlobStore):
    """Blobs on a `ReferencingDriver`: a file is hashed, and not copied."""

    def __init__(self, root: Path) -> None:
        self._references = ReferencingDriver(root)
        super().__init__(self._references)

    def stage(self, file: Path, *, watch: Watch | None = None, advance: Advance | None = None) -> StagedBlob:
        if not file.is_file():
            raise NotFoundError(f"There is no file {file}: it was removed while it was being read.")
        writer = self._references.take_file(file, link=True)
        try:
            return StagedBlob(self, writer, digest_object(writer.open(), watch, advance))
        except BaseException:
            writer.__exit__(None, None, None)
            raise


class _Referring(FileWriter):
    """An object that is to refer to a file."""

    def __init__(self, root: Path, temporary: TemporaryFile, file: Path) -> None:
        super().__init__(root, temporary)
        self._file = file
        self._stored_by = "link"

    def open(self) -> ObjectReader:
        with ErrorMapping(unreadable_file, self._file):
            return FileReader(self._root, self._file)

    def sync(self) -> None:
        """Nothing: the store is thrown away."""

    def move(self, target: Path) -> None:
        target.symlink_to(self._file)


PIECE: Final = 8 << 20
AHEAD: Final = 8  # pieces
THREADS: Final = 8
_HEADERS: Final = 32  # 1/32 of a piece: most headers end within so much of a blob
_NEAR: Final = 2  # pieces that the threads of one sequential reader may be apart
_LARGE: Final = 1 << 20
_LEAST: Final = 4 << 10  # bytes counted for a small piece, with the overhead of its entry
_RUNS: Final = 16  # sequential readers tracked per open blob

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


class CachingBlobs:
    """The blobs of a store, read through the memory cache if that saves requests."""

    def __init__(self, store: BlobStore, memory: MemoryCache) -> None:
        self._store = store
        self._memory = memory

    def open_blob(self, blob: BlobRef) -> BlobReader | CachedReader:
        """Open a blob for verified reads."""
        reader = self._store.open(blob)
        if reader.ahead == 0 or self._memory.limit("rows") < PIECE:
            return reader
        return CachedReader(reader, blob.key, self._memory)


@dataclass
class _Run:
    """A sequential reader."""

    last: int  # the last piece read
    read: int = 0  # bytes
    asked: int = 0  # pieces before this one were prefetched


class CachedReader:
    """A `registry.files.source.ByteSource` over one blob; safe for many threads."""

    def __init__(self, reader: BlobReader, key: str, memory: MemoryCache) -> None:
        self._reader = reader
        self._key = key
        self._memory = memory
        self._most = max(0, min(AHEAD, int(memory.limit("rows")) // (4 * PIECE)))
        self._pieces = -(-reader.size // PIECE)
        self._lock = threading.Lock()
        self._runs: list[_Run] = []  # least recently active first
        self._closed = False

    @property
    def size(self) -> int:
        return self._reader.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer = buffer.cast("B")
        stop = offset + len(buffer)
        if offset < 0 or stop > self.size:
            self._reader.read_into(offset, buffer)  # raises the error
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
        """The bytes ``start`` to ``stop`` if they are in one piece, which is read if not cached; else None."""
        index = start // PIECE
        if not 0 <= start < stop <= min(self.size, (index + 1) * PIECE) or self._is_header(stop):
            return None
        self._ask_in_advance(start, stop)
        return memoryview(self._piece(index))[start - index * PIECE : stop - index * PIECE]

    def close(self) -> None:
        """Release the blob; its pieces stay cached."""
        self._closed = True
        self._reader.close()

    def _is_header(self, stop: int) -> bool:
        """Whether a read that ends at ``stop`` is within the header: of many shards, nothing else may be needed."""
        return stop <= PIECE // _HEADERS and self._pieces > 1 and not self._memory.has("rows", (self._key, 0))

    def _ask_in_advance(self, start: int, stop: int) -> None:
        for index in self._in_advance(start // PIECE, (stop - 1) // PIECE, stop - start):
            _pool().submit(self._fetch, index)

    def _in_advance(self, first: int, last: int, length: int) -> range:
        """The pieces to prefetch now: the rest of a long read, and those after it if much was read sequentially."""
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
        # An error here is dropped: it is raised again when somebody reads the piece.
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
    """Memory for a piece, returned to the system when it is freed.

    Private, because first touching pages of shared memory costs twice as much; no huge pages, which cost three times as
    much on a virtual machine that is given its memory in small pages.
    """
    if size < _LARGE:
        return bytearray(size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _pool() -> ThreadPoolExecutor:
    """Threads for prefetching; one pool per process, because threads do not survive a fork."""
    with _lock:
        pool = _pools.get(os.getpid())
        if pool is None:
            pool = _pools[os.getpid()] = ThreadPoolExecutor(THREADS, thread_name_prefix="ahead")
        return pool
