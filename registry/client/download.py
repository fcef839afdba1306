"""Parallel downloads in pieces, yielded in order, and resumed after the process was killed.

Memory is bounded by the pieces in flight, whatever the files' size.

A fetch journals the digest of each piece when it has arrived, before it is written. The next fetch of the same
rendering to the same place takes the pieces from the killed run's folder whose bytes still have their digests. The
journal is in the cache. If that is read-only, a fetch proceeds without one.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, TextIO

from blake3 import blake3

from registry.client.transport import LANES
from registry.digest import PREFIX, hex_of, sha256_digest
from registry.errors import IntegrityError
from registry.files.hashed import Each
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
        except OSError:  # such as no space left on the disk
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


PIECE: Final = 8 << 20


@dataclass(frozen=True)
class RemoteBytes:
    """A file to download; ``digest``, if known, is what its bytes are verified against."""

    path: str
    source: ByteSource
    digest: str | None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.source.size


def pieces(lanes: Executor, files: Iterable[tuple[ByteSource, int, int]]) -> Generator[memoryview, None, None]:
    """The ranges of files one after the other, as pieces that are read ahead."""
    waiting: deque[Future[memoryview]] = deque()
    plan = chain.from_iterable(_cut(*file) for file in files)
    try:
        for source, start, stop in plan:
            waiting.append(lanes.submit(_read, source, start, stop))
            if len(waiting) >= LANES:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _cut(source: ByteSource, start: int, stop: int) -> Iterator[tuple[ByteSource, int, int]]:
    for at in range(start, stop, PIECE):
        yield source, at, min(at + PIECE, stop)


def _read(source: ByteSource, start: int, stop: int) -> memoryview:
    data = memoryview(bytearray(stop - start))
    source.read_into(start, data)
    return data


def checked(chunks: Iterator[memoryview], digest: str | None, what: str) -> Iterator[memoryview]:
    """The chunks of a whole file; the last one comes only if the digest is right.

    Raises:
        IntegrityError: the bytes do not have the digest.
    """
    if digest is None:
        yield from chunks
        return
    found = hashlib.sha256()
    held: memoryview | None = None
    for chunk in chunks:
        found.update(chunk)
        if held is not None:
            yield held
        held = chunk
    if PREFIX + found.hexdigest() != digest:
        raise IntegrityError(
            f"The bytes of {what} that arrived are not those that were published ({digest}); fetch it again, and if "
            "that happens again, ask the registry's operator to run `registry fsck --deep`."
        )
    if held is not None:
        yield held


class Download:
    """A `registry.folders.writer.Writable`: files read once, in order, with read-ahead."""

    def __init__(self, lanes: Executor, files: Iterable[RemoteBytes], journal: Journal | None = None) -> None:
        listed = list(files)
        self.journal = journal
        self._stream = pieces(lanes, ((self._source(file), 0, file.size) for file in listed))
        self.files = {file.path: _Downloaded(self, file) for file in listed}
        self.size = sum(file.size for file in listed)

    def _source(self, file: RemoteBytes) -> ByteSource:
        return file.source if self.journal is None else Resumed(file.path, file.source, self.journal)

    def take(self, file: RemoteBytes) -> Iterator[memoryview]:
        """The bytes of the next file; no piece holds bytes of two."""
        at = 0
        while at < file.size:
            piece = next(self._stream)
            at += len(piece)
            yield piece

    def close(self) -> None:
        """Cancel pieces in flight."""
        self._stream.close()

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Downloaded:
    download: Download
    file: RemoteBytes

    @property
    def path(self) -> str:
        return self.file.path

    @property
    def size(self) -> int:
        return self.file.size

    def chunks(self, *, each: Each) -> Iterator[memoryview]:
        at = 0
        for chunk in checked(self.download.take(self.file), self.file.digest, self.path):
            each(at, chunk)
            at += len(chunk)
            yield chunk


def read_checked(lanes: Executor, file: RemoteBytes) -> Iterator[memoryview]:
    """All bytes of one file, in order."""
    with closing(pieces(lanes, [(file.source, 0, file.size)])) as stream:
        yield from checked(stream, file.digest, file.path)
