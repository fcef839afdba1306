"""Paths that are ready to run: composed once, kept within a budget, the least recently used dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from registry.pool.beside.selection import ResidentPath


@dataclass(frozen=True)
class PoolStats:
    """What a pool keeps, and how often that was enough."""

    resident: int  # paths that are ready to run
    resident_bytes: int  # what they take, on the model's device
    kept_bytes: int  # rows of the base that are kept on the CPU
    slot_bytes: int  # slots of a compiled model, on its device
    memory: int  # the budget of all three
    hits: int  # uses of a path that was ready
    misses: int  # uses of a path that had to be composed
    dropped: int  # paths that were composed, and made room for others


class Residents:
    """Composed paths by the digest of their revision; any thread may ask.

    Args:
        room: how many bytes they may take now.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._making = threading.Lock()  # one is composed at a time: it takes all cores
        self._kept: OrderedDict[str, ResidentPath] = OrderedDict()
        self._bytes = self._hits = self._misses = self._dropped = 0

    def get(self, digest: str, make: Callable[[], ResidentPath]) -> ResidentPath:
        """The path of a revision, composed where it is not ready."""
        found = self._find(digest)
        if found is None:
            with self._making:
                found = self._find(digest)
                if found is None:
                    found = make()
                    self._keep(digest, found)
        return found

    def clear(self) -> None:
        """Drop all of them."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def stats(self, kept_bytes: int, slot_bytes: int, memory: int) -> PoolStats:
        """What is kept, beside some bytes of the base and of slots, and how often it was enough."""
        with self._lock:
            counts = self._hits, self._misses, self._dropped
            return PoolStats(len(self._kept), self._bytes, kept_bytes, slot_bytes, memory, *counts)

    def _find(self, digest: str) -> ResidentPath | None:
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                self._kept.move_to_end(digest)
                self._hits += 1
            return found

    def _keep(self, digest: str, path: ResidentPath) -> None:
        room = self._room()
        with self._lock:
            self._misses += 1
            self._kept[digest] = path
            self._bytes += path.nbytes
            while self._bytes > room and self._kept:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes
                self._dropped += 1
