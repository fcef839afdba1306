"""Writing an artifact into a folder: every file once, its BLAKE3 on the way, on the disk when this returns."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from blake3 import blake3

from registry.progress import Progress
from registry.schemas import OutputFile
from registry.tensors.artifact import Artifact, ArtifactFile

_FLUSH_EVERY: Final = 128 << 20


def write_files(artifact: Artifact, folder: Path, progress: Progress) -> tuple[OutputFile, ...]:
    """Write all files of an artifact; raises OSError for what the file system refuses."""
    progress.begin("Writing", artifact.size)
    with _Flusher() as flusher:
        return tuple(_write(file, folder / path, flusher, progress) for path, file in artifact.files.items())


def _write(file: ArtifactFile, target: Path, flusher: _Flusher, progress: Progress) -> OutputFile:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = blake3()
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    handed_over = False
    try:
        written = 0
        for chunk in file.chunks():
            digest.update(chunk)
            _write_all(fd, chunk)
            written += len(chunk)
            progress.advance(len(chunk))
            if written >= _FLUSH_EVERY:
                flusher.begin(fd)
                written = 0
        flusher.finish(fd)
        handed_over = True
    finally:
        if not handed_over:
            os.close(fd)
    return OutputFile(path=file.path, size=file.size, blake3=digest.hexdigest())


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


class _Flusher:
    """Pushes written bytes to the disk on a thread of its own, while the next ones are computed.

    Without it the disk idles during the computation and everything waits for it at the end.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._wanted: list[int] = []  # descriptors, closed when they are done
        self._error: OSError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="flush")

    def begin(self, fd: int) -> None:
        """Start pushing out what a file holds so far."""
        with self._condition:
            if not self._wanted:
                self._wanted.append(os.dup(fd))
                self._condition.notify()

    def finish(self, fd: int) -> None:
        """Push out the rest of a file and close it."""
        with self._condition:
            self._wanted.append(fd)
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._wanted and not self._closed:
                    self._condition.wait()
                if not self._wanted:
                    return
                fd = self._wanted[0]
            try:
                os.fsync(fd)
            except OSError as problem:
                self._error = self._error or problem
            finally:
                os.close(fd)
            with self._condition:
                self._wanted.pop(0)

    def __enter__(self) -> _Flusher:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
