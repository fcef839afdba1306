"""Memory of a thread that is used again and again.

Fresh memory is zeroed by the kernel page by page, which takes as long as the conversion that fills it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

_KEPT: Final = 16 << 20  # bytes a thread; blocks of the grid need 4 MiB in float32

_own = threading.local()


@contextmanager
def scratch(rows: int, columns: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """A matrix (rows, columns) of arbitrary values, which nobody may use after the ``with``."""
    size = rows * columns * dtype.itemsize
    held: torch.Tensor | None = getattr(_own, "memory", None)
    _own.memory = None  # whoever needs some within the ``with`` gets other memory
    if held is None or held.numel() < size:
        held = torch.empty(size, dtype=torch.uint8)
    try:
        yield held[:size].view(dtype).view(rows, columns)
    finally:
        _own.memory = held if held.numel() <= _KEPT else None
