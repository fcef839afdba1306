"""Writes an artifact into a folder: one pass per file, hashing with BLAKE3, durable on return.

Bytes are hashed while they are written, and a file is synced while the next one is made: what makes them is not kept
waiting by the disk, up to `_BEHIND` bytes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from blake3 import blake3

from registry.progress import Progress
from registry.schemas import OutputFile

_START_EVERY: Final = 32 << 20
_BEHIND: Final = 32 << 20
"""Bytes that are hashed and not yet written."""


class WritableFile(Protocol):
    """A file of an artifact, wherever its bytes come from."""

    @property
    def path(self) -> str:
        """Name, ``/``-separated."""

    @property
    def size(self) -> int:
        """Bytes."""

    def chunks(self) -> Iterator[memoryview]:
        """All bytes in order."""


class Writable(Protocol):
    """What `write_files` needs of an artifact."""

    @property
    def files(self) -> Mapping[str, WritableFile]:
        """The files by name."""

    @property
    def size(self) -> int:
        """Bytes of all files."""


def write_files(artifact: Writable, folder: Path, progress: Progress) -> tuple[OutputFile, ...]:
    """Write all files of an artifact durably; raises OSError."""
    progress.begin("Writing", artifact.size)
    with _Worker("sync") as syncs, _Worker("write", most=_BEHIND) as writes:
        return tuple(_write(file, folder / path, writes, syncs, progress) for path, file in artifact.files.items())


def _write(file: WritableFile, path: Path, writes: _Worker, syncs: _Worker, progress: Progress) -> OutputFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = blake3()
    target = _Target(path)
    try:
        for chunk in file.chunks():
            writes.add(partial(target.append, chunk), len(chunk))
            digest.update(chunk)
            progress.advance(len(chunk))
        writes.finish()
    except BaseException:
        writes.drop()
        target.close()
        raise
    syncs.add(target.sync)
    return OutputFile(path=file.path, size=file.size, blake3=digest.hexdigest())


class _Target:
    """A new file; raises OSError. One thread at a time works on it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._waiting = 0  # bytes for which writeback was not started

    def append(self, data: memoryview) -> None:
        """Write bytes at the end."""
        self._waiting += len(data)
        while data:
            data = data[os.write(self._fd, data) :]
        if self._waiting >= _START_EVERY:
            self._waiting = 0
            self._start_writing()

    def _start_writing(self) -> None:
        """Start writeback of dirty pages, and drop clean pages of the file from the page cache.

        Otherwise the disk idles during the computation, and pages of a file larger than memory evict those of the base.
        """
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Make the bytes durable, and close the file."""
        try:
            os.fsync(self._fd)
        finally:
            self.close()

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)


class _Worker:
    """Does work on a thread of its own, in order; ``most`` says how many bytes of it may wait."""

    def __init__(self, name: str, most: int = 0) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._most = most
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._weight = 0

    def add(self, work: Callable[[], None], weight: int = 0) -> None:
        """Queue work of that many bytes; raises what earlier work raised."""
        self._waiting.append((self._pool.submit(work), weight))
        self._weight += weight
        while self._weight > self._most:
            self._settle()

    def finish(self) -> None:
        """Wait for all of it; raises what it raised."""
        while self._waiting:
            self._settle()

    def drop(self) -> None:
        """Do no more of it, and wait for what is being done; its errors don't matter."""
        waiting, self._weight = list(self._waiting), 0
        self._waiting.clear()
        for future, _ in waiting:
            if not future.cancel():
                future.exception()

    def _settle(self) -> None:
        future, weight = self._waiting.popleft()
        self._weight -= weight
        future.result()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self.finish()
