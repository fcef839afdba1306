"""One frame: the difference of some elements from the base's, without loss.

Elements are subtracted as whole numbers of their size (what wraps, wraps back), folded so that small differences of
either sign are small numbers, split into planes of bytes and compressed by zstd. A fine-tune moves most weights by a
few units in the last place or not at all, so the planes are nearly all zero. Measured on a bf16 fine-tune: 0.105 of the
changed tensors' bytes at zstd level 1, where ``zstd -19`` of these tensors gives 0.78, byte planes alone 0.69 and xor
0.118; higher levels gain a tenth at fifty times the time.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard

from registry.errors import IntegrityError

FRAME: Final = 1 << 20
"""Bytes of a tensor in one frame; the last may have fewer."""

_LEVEL: Final = 1
_UNSIGNED: Final = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}
_OVERHEAD: Final = 1024


def largest_frame(size: int) -> int:
    """More than what zstd makes of ``size`` bytes that can't be compressed."""
    return size + (size >> 7) + _OVERHEAD


def encode_frame(values: memoryview, against: memoryview, element: int) -> bytes:
    """The frame of some bytes.

    Args:
        values: whole elements, at most `FRAME` bytes.
        against: the base's bytes at the same place; may end earlier: beyond it they count as zeros.
        element: bytes of an element.
    """
    numbers = np.frombuffer(values, dtype=_UNSIGNED[element])
    difference = numbers - _as_long(against, numbers.size, element)
    folded = (difference << 1) ^ (0 - (difference >> (8 * element - 1)))
    planes = np.ascontiguousarray(folded.view(np.uint8).reshape(-1, element).T)
    return zstandard.ZstdCompressor(level=_LEVEL).compress(planes.data)


def decode_frame(frame: memoryview, size: int, against: memoryview, element: int, what: str) -> memoryview:
    """The ``size`` bytes of a frame; never takes more memory than those need, whatever the frame says.

    Raises:
        IntegrityError: ``bad_exact``, it is not a frame of that size; ``what`` names it.
    """
    try:
        said = zstandard.get_frame_parameters(frame)
        if said.content_size != size or said.window_size > max(FRAME, 1 << 10):
            raise IntegrityError(f"{what} holds {said.content_size} bytes where {size} are expected.", code="bad_exact")
        data = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as problem:
        raise IntegrityError(f"{what} is not a zstd frame ({problem}).", code="bad_exact") from None
    if len(data) != size:
        raise IntegrityError(f"{what} holds {len(data)} bytes where {size} are expected.", code="bad_exact")
    planes = np.frombuffer(data, dtype=np.uint8).reshape(element, -1)
    folded = np.ascontiguousarray(planes.T).reshape(-1).view(_UNSIGNED[element])
    difference = (folded >> 1) ^ (0 - (folded & 1))
    values: npt.NDArray[Any] = difference + _as_long(against, folded.size, element)
    return values.view(np.uint8).data


def _as_long(against: memoryview, count: int, element: int) -> npt.NDArray[Any]:
    """The base's elements as numbers, with zeros where it has none."""
    numbers = np.frombuffer(against, dtype=_UNSIGNED[element])
    if numbers.size == count:
        return numbers
    filled = np.zeros(count, dtype=_UNSIGNED[element])
    filled[: numbers.size] = numbers
    return filled
