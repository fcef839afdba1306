"""Parallel downloads in pieces, yielded in order.

Memory is bounded by the pieces in flight, whatever the files' size.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Final

from registry.client.download.resume import Journal, Resumed
from registry.client.http.transport import LANES
from registry.digest import PREFIX
from registry.errors import IntegrityError
from registry.files.sha256 import Each
from registry.files.source import ByteSource

PIECE: Final = 8 << 20


@dataclass(frozen=True)
class RemoteBytes:
    """A file to download; ``digest``, where known, is what its bytes are verified against."""

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
