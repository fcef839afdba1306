"""Whether all weights of a file are finite, checked while its bytes pass by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from registry.errors import InvalidAdapterError
from registry.files.header import SIZES, TensorEntry
from registry.files.source import ByteSource
from registry.files.strict_json import shown
from registry.tensors.elements.passing import PassingElements, pass_by

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
    pass_by(source, FiniteWatch(entries), advance)


class FiniteWatch:
    """Call it as `PassingElements` is called.

    Raises:
        InvalidAdapterError: ``non_finite``, naming the tensor and the first bad element.
    """

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self._elements = PassingElements(entries, _LAYOUTS, self._take)

    def __call__(self, offset: int, chunk: memoryview) -> None:
        self._elements(offset, chunk)

    def _take(self, entry: TensorEntry, index: int, piece: memoryview) -> None:
        for at in range(0, len(piece), _BLOCK):
            self._check(entry, index + at // SIZES[entry.dtype], piece[at : at + _BLOCK])

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
