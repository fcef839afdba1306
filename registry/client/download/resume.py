"""Resumes a download that was killed, as far as its pieces are proved to be intact.

A fetch journals the digest of each piece when it has arrived, before it is written. The next fetch of the same
rendering to the same place takes the pieces from the killed run's folder whose bytes still have their digests.

The journal is in the cache. Where that is read-only, a fetch goes on without one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, TextIO

from blake3 import blake3

from registry.digest import hex_of, sha256_digest
from registry.errors import IntegrityError
from registry.files.source import ByteSource, FileSource
from registry.folders.staging import abandoned

_FORGOTTEN: Final = 7 * 24 * 3600.0
_PREFIX: Final = ".download-"


class Journal:
    """The pieces of one rendering that were written to one place."""

    def __init__(self, room: Path, rendering: str, place: Path) -> None:
        self._room = room
        name = hex_of(sha256_digest(f"{rendering} {place}".encode()))
        self._file = room / f"{_PREFIX}{name[:32]}"
        self._place = place
        self._known: dict[tuple[str, int, int], str] = {}
        self._files: dict[str, FileSource] = {}
        self._notes: TextIO | None = None  # None: they can't be written
        self._open = ExitStack()
        self._lock = threading.Lock()

    def __enter__(self) -> Journal:
        with suppress(OSError):
            self._room.mkdir(parents=True, exist_ok=True)
            self._forget_old()
            self._known = dict(self._noted())
            for folder in abandoned(self._place):
                self._take(folder)
            self._notes = self._file.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._open.close()
        with self._lock:  # a piece may still arrive
            self._stop_noting()
        if kind is None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)

    def find(self, path: str, start: int, data: memoryview) -> bool:
        """Fill ``data`` with a piece that an earlier run wrote; False: it has to be fetched."""
        digest = self._known.get((path, start, len(data)))
        source = self._files.get(path)
        if digest is None or source is None or start + len(data) > source.size:
            return False
        source.read_into(start, data)
        return bool(blake3(data).hexdigest() == digest)

    def note(self, path: str, start: int, data: memoryview) -> None:
        """Record a piece that is to be written; thread-safe."""
        if self._notes is None:
            return
        line = json.dumps([path, start, len(data), blake3(data).hexdigest()])
        with self._lock:
            self._write(line)

    def _write(self, line: str) -> None:
        if self._notes is None:  # stopped meanwhile
            return
        try:
            self._notes.write(line + "\n")
            self._notes.flush()
        except OSError:  # such as no space left there
            self._stop_noting()

    def _stop_noting(self) -> None:
        notes, self._notes = self._notes, None
        if notes is not None:
            with suppress(OSError):  # what could not be written is tried again
                notes.close()

    def _take(self, folder: Path) -> None:
        """Open the files of an abandoned folder; they stay readable after it was removed."""
        for path in {path for path, _, _ in self._known}:
            file = folder / path
            try:
                source = self._open.enter_context(FileSource(file))
            except OSError:
                continue  # the run was killed before it came to this file
            if path not in self._files or source.size > self._files[path].size:
                self._files[path] = source

    def _noted(self) -> Iterator[tuple[tuple[str, int, int], str]]:
        try:
            lines = self._file.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                path, start, length, digest = json.loads(line)
            except ValueError:
                continue  # the last line of a killed run may be cut
            yield (str(path), int(start), int(length)), str(digest)

    def _forget_old(self) -> None:
        for file in self._room.glob(f"{_PREFIX}*"):
            try:
                if time.time() - file.stat().st_mtime > _FORGOTTEN:
                    file.unlink()
            except OSError:
                continue  # gone meanwhile, or another user's


class Resumed:
    """A file of which some pieces are local already (`registry.files.source.ByteSource`); it journals what it reads."""

    def __init__(self, path: str, source: ByteSource, journal: Journal) -> None:
        self._path = path
        self._source = source
        self._journal = journal

    @property
    def size(self) -> int:
        return self._source.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if not self._found(offset, buffer):
            self._source.read_into(offset, buffer)
        self._journal.note(self._path, offset, buffer)

    def _found(self, offset: int, buffer: memoryview) -> bool:
        try:
            return self._journal.find(self._path, offset, buffer)
        except IntegrityError:  # the file of the killed run is shorter than it was
            return False
