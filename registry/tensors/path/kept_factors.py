"""Where the factors of a path's products are kept between the blocks that they are multiplied into.

Making them reads the tensors of all links, so that they should be made once for a slot and not once for a block.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Protocol

import torch

from registry.errors import IntegrityError, UnavailableError
from registry.memory import MemoryCache

_KEPT: Final = 4
"""Of one file."""

Factors = tuple[torch.Tensor, torch.Tensor]


class KeptFactors(Protocol):
    """Factors by key; safe for many threads."""

    def get(self, key: Hashable, make: Callable[[], Factors]) -> Factors:
        """The factors of that key."""


class RecentFactors:
    """Factors in use: made once each, the least recently used of more than ``most`` dropped."""

    def __init__(self, most: int = _KEPT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[threading.Lock, list[Factors]]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Factors]) -> Factors:
        with self._lock:
            slot = self._kept.setdefault(key, (threading.Lock(), []))
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        lock, made = slot
        with lock:
            if not made:
                made.append(make())
            return made[0]


class SharedFactors:
    """Factors of one plan in the memory of the process: for all files, requests and ranges of it."""

    def __init__(self, memory: MemoryCache, plan: str) -> None:
        self._memory = memory
        self._plan = plan
        self._large: set[Hashable] = set()  # the memory does not keep them
        self._recent = RecentFactors()

    def get(self, key: Hashable, make: Callable[[], Factors]) -> Factors:
        if key in self._large:
            return self._recent.get(key, make)
        mine = False

        def make_mine() -> Factors:
            nonlocal mine
            mine = True
            return make()

        try:
            factors = self._memory.get("factors", (self._plan, key), make_mine, _size)
        except (IntegrityError, UnavailableError):
            if mine:
                raise
            factors = make()  # another's blobs failed, as with shared pieces: `registry.tensors.artifacts.pieces`
        if _size(factors) > self._memory.limit("factors"):
            self._large.add(key)
        return factors


def _size(factors: Factors) -> int:
    return sum(factor.nbytes for factor in factors)
