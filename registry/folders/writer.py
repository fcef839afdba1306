"""Writes an artifact into a folder: one pass per file, hashing with BLAKE3, durable on return."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Queue
from typing import Final, Protocol

from blake3 import blake3

from registry.progress import Progress
from registry.schemas import OutputFile

_START_EVERY: Final = 32 << 20


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
    with _Flusher() as flusher:
        return tuple(_write(file, folder / path, flusher, progress) for path, file in artifact.files.items())


def _write(file: WritableFile, target: Path, flusher: _Flusher, progress: Progress) -> OutputFile:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = blake3()
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        waiting = 0
        for chunk in file.chunks():
            digest.update(chunk)
            _write_all(fd, chunk)
            progress.advance(len(chunk))
            waiting += len(chunk)
            if waiting >= _START_EVERY:
                _start_writing(fd)
                waiting = 0
    except BaseException:
        os.close(fd)
        raise
    flusher.finish(fd)
    return OutputFile(path=file.path, size=file.size, blake3=digest.hexdigest())


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _start_writing(fd: int) -> None:
    """Start writeback of dirty pages, and drop clean pages of the file from the page cache.

    Otherwise the disk idles during the computation, and pages of a file larger than memory evict those of the base.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


class _Flusher:
    """Runs fsync on a thread, while the next file is computed."""

    def __init__(self) -> None:
        self._files: Queue[int | None] = Queue()  # descriptors; None ends the thread
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="flush")

    def finish(self, fd: int) -> None:
        """Queue a file to be synced and closed."""
        self._files.put(fd)

    def _run(self) -> None:
        while (fd := self._files.get()) is not None:
            try:
                os.fsync(fd)
            except OSError as problem:
                self._error = self._error or problem
            finally:
                os.close(fd)

    def __enter__(self) -> _Flusher:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._files.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
