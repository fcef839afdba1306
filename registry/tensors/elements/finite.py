"""Whether all weights of a file are finite, checked while its bytes pass by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.sizes import SIZES
from registry.files.source import ByteSource, read_range
from registry.files.strict_json import shown

_STEP: Final = 8 << 20
_BLOCK: Final = 256 * 1024  # bytes that are looked at twice, so they should stay in the cache


@dataclass(frozen=True)
class _Layout:
    """Infinity of a float dtype as bits: all patterns from it on, of either sign, are infinity or NaN (IEEE 754)."""

    unsigned: str
    signed: str
    infinity: int
    negative: int


_LAYOUTS: Final = {
    "F64": _Layout("<u8", "<i8", 0x7FF0 << 48, 0xFFF0 << 48),
    "F32": _Layout("<u4", "<i4", 0x7F80 << 16, 0xFF80 << 16),
    "BF16": _Layout("<u2", "<i2", 0x7F80, 0xFF80),
    "F16": _Layout("<u2", "<i2", 0x7C00, 0xFC00),
}


def check_finite(entries: Mapping[str, TensorEntry], source: ByteSource, advance: Callable[[int], None]) -> None:
    """Read a whole file; raises `InvalidAdapterError` as `FiniteWatch` does."""
    watch = FiniteWatch(entries)
    for offset in range(0, source.size, _STEP):
        chunk = read_range(source, offset, min(offset + _STEP, source.size))
        watch(offset, memoryview(chunk))
        advance(len(chunk))


class FiniteWatch:
    """Call it with each chunk of the file, from the first byte on and in order; chunks may end inside an element.

    Raises:
        InvalidAdapterError: ``non_finite``, naming the tensor and the first bad element.
    """

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self._entries = sorted(
            (entry for entry in entries.values() if entry.dtype in _LAYOUTS), key=lambda entry: entry.start
        )
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
                self._take(entry, first, chunk[first - offset : last - offset])
            if entry.stop > stop:
                return
            self._next += 1

    def _take(self, entry: TensorEntry, start: int, piece: memoryview) -> None:
        size = SIZES[entry.dtype]
        if self._carry:
            missing = size - len(self._carry)
            self._carry += piece[:missing]
            if len(self._carry) < size:
                return
            self._check(entry, (start - entry.start) // size, memoryview(bytes(self._carry)))
            self._carry.clear()
            start, piece = start + missing, piece[missing:]
        whole = len(piece) - len(piece) % size
        self._carry += piece[whole:]
        for at in range(0, whole, _BLOCK):
            self._check(entry, (start - entry.start + at) // size, piece[at : min(at + _BLOCK, whole)])

    def _check(self, entry: TensorEntry, index: int, block: memoryview) -> None:
        layout = _LAYOUTS[entry.dtype]
        bits = np.frombuffer(block, dtype=layout.unsigned)
        signed = bits.view(layout.signed)
        if bits.max() < layout.negative and signed.max() < layout.infinity:
            return
        bad = index + int(np.argmax((bits >= layout.negative) | (signed >= layout.infinity)))
        place = [int(at) for at in np.unravel_index(bad, entry.shape)]
        raise InvalidAdapterError(
            f"Tensor {shown(entry.name)} of shape {entry.shape} contains NaN or infinity, first at element {place}. "
            "Such an adapter has no meaning: publish a checkpoint from before the training diverged, or save it "
            "again.",
            code="non_finite",
        )
