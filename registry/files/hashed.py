"""Digests of files, and what shows later whether a file still has the bytes that were hashed.

The sha256 is taken in one pass. A file's *stamp* is its size, its times and its place on the disk. Times come in ticks,
of milliseconds or of whole seconds: what is written within the tick of the change before leaves the stamp as it is. So
a stamp alone is believed only where the file had been left alone for a while when hashing began; any other file has to
be hashed again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from registry.digest import PREFIX
from registry.files.opened import open_to_read, read_at
from registry.progress import SILENT, Progress

CHUNK: Final = 1 << 20
"""Bytes of one step of a pass: small enough to stay in the processor's cache while it is hashed and written."""
_BUFFERS: Final = 3

Fill = Callable[[memoryview], int]
"""Fills a buffer from a stream; returns how many bytes it wrote, fewer than fit only at the end."""
Each = Callable[[int, memoryview], None]
"""Gets a chunk and its offset."""


def hash_stream(fill: Fill, each: Each) -> tuple[str, int]:
    """Digest and size of a stream.

    ``each`` gets every chunk in order, valid during the call only. sha256 is the slowest part, so it
    runs in a thread of its own, up to two chunks behind; everything else runs in the caller's thread.
    """
    whole = hashlib.sha256()
    buffers = [memoryview(bytearray(CHUNK))]  # the others are made when a stream is longer
    hashing: list[Future[None] | None] = [None] * _BUFFERS
    size = 0
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256") as pool:
        while True:
            turn = (size // CHUNK) % _BUFFERS
            if (before := hashing[turn]) is not None:
                before.result()
            if turn == len(buffers):
                buffers.append(memoryview(bytearray(CHUNK)))
            count = fill(buffers[turn])
            if count == 0:
                break
            chunk = buffers[turn][:count]
            if size == 0 and count < CHUNK:
                whole.update(chunk)  # a small stream is not worth a thread
            else:
                hashing[turn] = pool.submit(whole.update, chunk)
            each(size, chunk)
            size += count
            if count < CHUNK:
                break
        for future in hashing:
            if future is not None:
                future.result()
    return PREFIX + whole.hexdigest(), size


_SETTLED: Final = 3.0
"""Seconds; longer than any tick, of which those of FAT are the longest."""


class Stamp(NamedTuple):
    """What the file system reports of a file; it changes once somebody has written to the file."""

    size: int
    modified: int
    changed: int
    inode: int
    device: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        """The stamp in what ``stat`` returns."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)

    def settled_at(self, moment: float) -> bool:
        """Whether any write after ``moment``, a time of the clock, gives the file another stamp."""
        return moment - max(self.modified, self.changed) / 1e9 > _SETTLED


@dataclass(frozen=True)
class HashedFile:
    """A file as it was when its digest was taken. ``settled``: a later change shows in its stamp."""

    path: Path
    digest: str
    stamp: Stamp
    settled: bool

    def passes(self, file: int | Path) -> bool:
        """Whether a file, open or by name, can be the one that was hashed: a look, no byte is read; raises OSError."""
        stamp = Stamp.of(os.stat(file))  # noqa: PTH116 - a descriptor has no path
        # One name more or less for the file changes this time alone; so does a writer that restores the other times.
        return stamp._replace(changed=self.stamp.changed) == self.stamp

    def is_still(self, descriptor: int) -> bool:
        """Whether an open file is the one that was hashed, and had the same bytes since: for after they were read.

        If its stamp does not prove it, they are hashed again; raises OSError.
        """
        if not self.passes(descriptor):
            return False
        told = self.settled and Stamp.of(os.fstat(descriptor)) == self.stamp
        return told or digest_of(descriptor, SILENT) == self.digest


def hash_file(path: Path, progress: Progress) -> HashedFile:
    """Take the digest of a file; raises OSError."""
    descriptor = open_to_read(path)
    try:
        began = time.time()
        before = Stamp.of(os.fstat(descriptor))
        digest = digest_of(descriptor, progress)
        after = Stamp.of(os.fstat(descriptor))
    finally:
        os.close(descriptor)
    return HashedFile(path, digest, after, settled=before == after and before.settled_at(began))


def digest_of(descriptor: int, progress: Progress) -> str:
    """The digest of an open file's bytes; raises OSError."""
    at = 0

    def fill(buffer: memoryview) -> int:
        nonlocal at
        filled = 0
        while filled < len(buffer) and (count := read_at(descriptor, buffer[filled:], at)):
            filled, at = filled + count, at + count
        return filled

    return hash_stream(fill, lambda _, chunk: progress.advance(len(chunk)))[0]
