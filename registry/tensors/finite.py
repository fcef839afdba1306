"""Whether all weights of a file are finite, seen chunk by chunk while the file is read once for other reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from registry.errors import InvalidAdapterError
from registry.tensors.dtypes import FLOATS, SIZES
from registry.tensors.header import TensorEntry
from registry.tensors.strict_json import shown

_SPAN: Final = 1 << 16  # elements looked at together: their temporaries stay in the cache
_EXPONENT: Final[dict[str, tuple[type[np.unsignedinteger], int]]] = {
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F800000),
    "F64": (np.uint64, 0x7FF0000000000000),
}
"""Integer of the same width, and the exponent bits: all set means NaN or infinity (IEEE 754)."""


class FiniteWatch:
    """Call it with every chunk of the file, in order; chunks may end anywhere, also inside an element.

    Raises:
        InvalidAdapterError: ``non_finite``, naming the tensor and the element.
    """

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        floats = [entry for entry in entries.values() if entry.dtype in FLOATS and entry.stop > entry.start]
        self._entries = sorted(floats, key=lambda entry: entry.start)
        self._next = 0
        self._kept = bytearray()  # the beginning of an element that the last chunk cut

    def __call__(self, offset: int, chunk: memoryview) -> None:
        chunk = chunk.cast("B")
        end = offset + len(chunk)
        while self._next < len(self._entries):
            entry = self._entries[self._next]
            if entry.start >= end:
                return
            self._look(entry, offset, chunk)
            if entry.stop > end:
                return
            self._next += 1

    def _look(self, entry: TensorEntry, offset: int, chunk: memoryview) -> None:
        first, last = max(entry.start, offset), min(entry.stop, offset + len(chunk))
        size = SIZES[entry.dtype]
        data = chunk[first - offset : last - offset]
        if self._kept:
            need = size - len(self._kept)
            self._kept += data[:need]
            if len(self._kept) < size:
                return
            self._check(entry, (first - entry.start) // size, memoryview(self._kept))
            self._kept = bytearray()
            data, first = data[need:], first + need
        whole = len(data) // size * size
        self._check(entry, (first - entry.start) // size, data[:whole])
        self._kept += data[whole:]

    def _check(self, entry: TensorEntry, index: int, data: memoryview) -> None:
        integer, exponent = _EXPONENT[entry.dtype]
        values: NDArray[np.unsignedinteger] = np.frombuffer(data, dtype=integer)
        mask = integer(exponent)
        for start in range(0, len(values), _SPAN):
            bad = (values[start : start + _SPAN] & mask) == mask
            if bad.any():
                at = index + start + int(bad.argmax())
                place = tuple(int(axis) for axis in np.unravel_index(at, entry.shape))
                raise InvalidAdapterError(
                    f"Tensor {shown(entry.name)} holds NaN or infinity at {list(place)}; the training run diverged. "
                    "Publish a checkpoint from before that.",
                    code="non_finite",
                )
