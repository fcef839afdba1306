"""Artifacts that were asked for lately, kept open: a file is fetched in many ranges, and planning each again costs more
than most of them.

Who may read what is looked up for every request; what is kept here is named by digests only.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from registry.tensors.artifacts.artifact import Artifact

_IDLE: Final = 60.0  # seconds that an artifact nobody reads is kept


@dataclass
class _Kept:
    opened: Future[Artifact] = field(default_factory=Future)
    users: int = 0
    dropped: bool = False
    idle_since: float = 0.0


class Loan:
    """An artifact that stays open until it is given back."""

    def __init__(self, artifact: Artifact, give_back: Callable[[], None]) -> None:
        self.artifact = artifact
        self._give_back: Callable[[], None] | None = give_back

    def close(self) -> None:
        """Give it back; twice is once."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class ArtifactShelf:
    """At most ``most`` open artifacts beside those that are read."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def borrow(self, key: str, make: Callable[[], Artifact]) -> Loan:
        """The artifact of this key; made once, however many ask for it at the same time."""
        with self._lock:
            kept = self._kept.get(key)
            mine = kept is None
            if kept is None:
                kept = self._kept[key] = _Kept()
            self._kept.move_to_end(key)
            kept.users += 1
        if mine:
            self._make(key, kept, make)
        try:
            artifact = kept.opened.result()
        except BaseException:
            self._give_back(kept)
            raise
        return Loan(artifact, lambda: self._give_back(kept))

    def close(self) -> None:
        """Let go of everything that nobody reads; what is read is closed when it is given back."""
        with self._lock:
            keys = list(self._kept)
        for key in keys:
            self._drop(key)

    def _make(self, key: str, kept: _Kept, make: Callable[[], Artifact]) -> None:
        try:
            kept.opened.set_result(make())
        except BaseException as error:
            kept.opened.set_exception(error)
            self._drop(key)
            raise

    def _give_back(self, kept: _Kept) -> None:
        with self._lock:
            kept.users -= 1
            kept.idle_since = time.monotonic()
            over = kept.dropped and kept.users == 0
        if over:
            _close(kept)
        self._sweep()

    def _sweep(self) -> None:
        """Drop what was not read for a while, and of the rest what was asked for the longest ago."""
        now = time.monotonic()
        with self._lock:
            idle = [key for key, kept in self._kept.items() if not kept.users]
            extra = max(0, len(idle) - self._most)
            stale = [key for key in idle if now - self._kept[key].idle_since > _IDLE]
        for key in dict.fromkeys([*idle[:extra], *stale]):
            self._drop(key)

    def _drop(self, key: str) -> None:
        with self._lock:
            kept = self._kept.pop(key, None)
            if kept is None:
                return
            kept.dropped = True
            over = kept.users == 0
        if over:
            _close(kept)


def _close(kept: _Kept) -> None:
    if kept.opened.exception() is None:
        kept.opened.result().close()
