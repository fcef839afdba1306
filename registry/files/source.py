"""Bytes by range, the only way in which the tensor core reads files; and memory that is used again for them.

Memory for bytes that pass through, which is used again once nobody holds any of it.

The kernel zeroes fresh memory page by page when it is first touched, which takes as long as what fills it: reading a
file that is in the page cache, or a conversion.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from registry.errors import IntegrityError, RegistryError
from registry.files.opened import open_to_read, read_at

_SMALLEST: Final = 16  # as powers of two: 64 KiB, below which malloc has memory that was touched before
_LARGEST: Final = 23  # 8 MiB, a block of the grid in float64
_KEPT: Final = 16 << 20  # bytes of each size that nobody holds

# Windows has no such flags: on it, memory without a file belongs to one process.
_OWN: Final = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
_SIZES: Final = range(_SMALLEST, _LARGEST + 1)
_LENT: Final = {bits: ctypes.c_ubyte * (1 << bits) for bits in _SIZES}  # ctypes would make such a type for each call
_free: Final = {
    bits: deque[mmap.mmap](maxlen=_KEPT >> bits) for bits in _SIZES
}  # its append and pop need no lock, which a finaliser could wait for in the thread that holds it


def buffer(size: int) -> memoryview:
    """``size`` bytes of arbitrary values."""
    return used_again(size) or memoryview(bytearray(size))


def used_again(size: int) -> memoryview | None:
    """The same, at the start of a page; None for sizes that are made afresh each time."""
    bits = max(size - 1, 0).bit_length()
    if bits not in _SIZES:
        return None
    try:
        memory = _free[bits].pop()
    except IndexError:
        memory = mmap.mmap(-1, 1 << bits, **_OWN)
    # Whatever is made of the view (slices, tensors, arrays) holds this object, and nothing else does.
    lent = _LENT[bits].from_buffer(memory)
    weakref.finalize(lent, _free[bits].append, memory).atexit = False
    return memoryview(lent).cast("B")[:size]


class ByteSource(Protocol):
    """Bytes of known size, readable by range from many threads at once."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset``; raises `IntegrityError` if the bytes are missing or wrong."""


class HoldingSource(ByteSource, Protocol):
    """A source that may have its bytes in memory."""

    def held(self, start: int, stop: int) -> memoryview | None:
        """The bytes ``start`` to ``stop`` in place, not to be changed; None: they are not contiguous in memory."""


def held(source: ByteSource, start: int, stop: int) -> memoryview | None:
    """The bytes where a `HoldingSource` keeps them; None: they have to be read.

    ``isinstance`` with the protocol takes as long as reading some hundred KB.
    """
    look: Callable[[int, int], memoryview | None] | None = getattr(source, "held", None)
    return None if look is None else look(start, stop)


def read_range(source: ByteSource, start: int, stop: int) -> bytearray:
    """The bytes ``start`` to ``stop`` of a source, in memory."""
    data = bytearray(stop - start)
    source.read_into(start, memoryview(data))
    return data


def look_at(source: ByteSource, start: int, stop: int) -> memoryview:
    """The bytes ``start`` to ``stop``, for callers that do not change them: no copy if they are in memory already."""
    found = held(source, start, stop)
    if found is not None:
        return found
    data = buffer(stop - start)
    source.read_into(start, data)
    return data


class BytesSource:
    """Bytes in memory; ``what`` names them in the error for a range beyond their end."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = memoryview(data)
        self._what = what

    @property
    def size(self) -> int:
        return len(self._data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        stop = offset + len(buffer)
        if offset < 0 or stop > len(self._data):
            raise self.beyond(offset, stop)
        buffer[:] = self._data[offset:stop]

    def beyond(self, start: int, stop: int) -> RegistryError:
        """The error for bytes beyond the end."""
        return IntegrityError(f"Bytes {start} to {stop} of {self._what} were requested, but it has {self.size}.")

    def close(self) -> None:
        """Nothing needs to be released."""


NOWHERE: Final = BytesSource(b"", "what is in memory already")
"""A source without bytes, for numbers that no file holds."""


class FileSource:
    """A local file, read at places: no shared position, no mapping that a truncation could turn into a crash."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = open_to_read(path)
        self._size = os.fstat(self._fd).st_size

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        while buffer:
            count = read_at(self._fd, buffer, offset)
            if count == 0:
                raise IntegrityError(
                    f"{self._path} ends at byte {offset}, but more was expected: it was truncated while in use."
                )
            buffer = buffer[count:]
            offset += count

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Part:
    start: int
    source: ByteSource
    at: int  # in the source


class JoinedSource:
    """Parts of other sources, one after another."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._parts: list[_Part] = []
        self._starts: list[int] = []
        self.size = 0

    def add(self, source: ByteSource, at: int, length: int) -> None:
        """Let ``length`` bytes of a source from ``at`` on come next."""
        self._parts.append(_Part(self.size, source, at))
        self._starts.append(self.size)
        self.size += length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        stop = offset + len(buffer)
        if offset < 0 or stop > self.size:
            raise IntegrityError(f"Bytes {offset} to {stop} of {self._what} were requested, but it has {self.size}.")
        index = bisect_right(self._starts, offset) - 1
        at = offset
        while at < stop:
            part = self._parts[index]
            index += 1
            end = min(stop, self._starts[index] if index < len(self._starts) else self.size)
            if at < end:
                part.source.read_into(part.at + at - part.start, buffer[at - offset : end - offset])
                at = end
