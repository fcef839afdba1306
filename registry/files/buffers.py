"""Memory for bytes that pass through, which is used again once nobody holds any of it.

The kernel zeroes fresh memory page by page when it is first touched, which takes as long as what fills it: reading a
file that is in the page cache, or a conversion.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import deque
from typing import Final

_SMALLEST: Final = 16  # as powers of two: 64 KiB, below which malloc has memory that was touched before
_LARGEST: Final = 23  # 8 MiB, a block of the grid in float64
_KEPT: Final = 16 << 20  # bytes of each size that nobody holds

# Windows has no such flags: memory without a file is a process's own there.
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
