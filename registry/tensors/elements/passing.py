"""The elements of a file's tensors, while its bytes pass by in chunks that may end inside an element."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from registry.files.header import SIZES, TensorEntry
from registry.files.source import ByteSource, read_range

_STEP: Final = 8 << 20

Watch = Callable[[int, memoryview], None]
"""Gets the chunks of a file in order, each with its offset."""

Take = Callable[[TensorEntry, int, memoryview], None]
"""Gets bytes of whole elements of a tensor, and the number of the first one; they are valid during the call only."""


class PassingElements:
    """Call it with each chunk of the file, from the first byte on and in order; ``take`` gets the elements in order.

    Args:
        entries: the tensors of the file.
        dtypes: those whose elements are looked at.
        take: called with elements of one tensor, any number of them at a time.
    """

    def __init__(self, entries: Mapping[str, TensorEntry], dtypes: Collection[str], take: Take) -> None:
        self._entries = sorted((one for one in entries.values() if one.dtype in dtypes), key=lambda one: one.start)
        self._take = take
        self._next = 0  # entry that the next byte may belong to
        self._at = 0
        self._carry = bytearray()  # bytes of an element that the last chunk cut

    def __call__(self, offset: int, chunk: memoryview) -> None:
        if offset != self._at:
            raise ValueError(f"chunk at byte {offset}, expected {self._at}")
        chunk = chunk.cast("B")
        self._at = stop = offset + len(chunk)
        while self._next < len(self._entries):
            entry = self._entries[self._next]
            first, last = max(entry.start, offset), min(entry.stop, stop)
            if first < last:
                self._whole(entry, first, chunk[first - offset : last - offset])
            if entry.stop > stop:
                return
            self._next += 1

    def _whole(self, entry: TensorEntry, start: int, piece: memoryview) -> None:
        size = SIZES[entry.dtype]
        if self._carry:
            missing = size - len(self._carry)
            self._carry += piece[:missing]
            if len(self._carry) < size:
                return
            self._take(entry, (start - entry.start) // size, memoryview(bytes(self._carry)))
            self._carry.clear()
            start, piece = start + missing, piece[missing:]
        whole = len(piece) - len(piece) % size
        self._carry += piece[whole:]
        if whole:
            self._take(entry, (start - entry.start) // size, piece[:whole])


def watched_by(*watches: Watch) -> Watch:
    """One watch of several, which get each chunk in this order."""

    def each(offset: int, chunk: memoryview) -> None:
        for watch in watches:
            watch(offset, chunk)

    return each


def pass_by(source: ByteSource, watch: Watch, advance: Callable[[int], None]) -> None:
    """Read a whole file for ``watch``."""
    for offset in range(0, source.size, _STEP):
        chunk = read_range(source, offset, min(offset + _STEP, source.size))
        watch(offset, memoryview(chunk))
        advance(len(chunk))
