"""Memory of a lane for the few tensors that are made of some rows: used for the next rows again, so that it is warm.

Fresh memory for each costs a third of the time of measuring: the blocks of a merge go through all caches meanwhile.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch


class _Rooms(threading.local):
    def __init__(self) -> None:
        self.made: dict[tuple[str, torch.dtype], torch.Tensor] = {}


_rooms = _Rooms()


def room(name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of arbitrary values, contiguous; it is gone once this thread asks for the same name again."""
    size = math.prod(shape)
    found = _rooms.made.get((name, dtype))
    if found is None or found.numel() < size:
        found = _rooms.made[name, dtype] = torch.empty(size, dtype=dtype)
    return found[:size].view(tuple(shape))
