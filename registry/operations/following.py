"""Events as they come: what a program iterates over, which goes on by itself after the registry was away."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Self

from registry.errors import UnavailableError
from registry.schemas.team import FollowedEvent

START: Final = "start"
"""The cursor before the first event."""
Lost = Callable[[UnavailableError], object]

_PASSES: Final = frozenset({"unavailable", "busy", "too_slow"})
"""Codes of what a registry that is restarted, or a network, answers for a while."""
_FIRST: Final = 0.5  # seconds until the first attempt to go on; it doubles
_LONGEST: Final = 30.0


class Following(Iterator[FollowedEvent], ABC):
    """Events that meet some conditions, oldest first; the next one is waited for.

    Each comes once, and none is left out: also those that came while the registry could not be reached, after which it
    goes on by itself. ``cursor`` leads on from the last one that was given, in another process, too. One thread at a
    time may iterate; use it in a ``with`` block, or close it.
    """

    def __init__(self, lost: Lost | None) -> None:
        self.cursor: str = ""
        """Where the next event is looked for: after the last one that was given."""
        self._lost = lost
        self._come: deque[FollowedEvent] = deque()
        self._closed = threading.Event()
        self._whole = False
        self._failures = 0

    @abstractmethod
    def _more(self) -> Sequence[FollowedEvent] | None:
        """What has come after ``_seen``, after a wait of some seconds at most; None: no more will be given.

        Raises:
            UnavailableError: the registry can't be reached now.
        """

    def _release(self) -> None:
        """Release connections."""

    @property
    def _seen(self) -> str:
        """The cursor of the last event that came, which may not have been given yet."""
        return self._come[-1].cursor if self._come else self.cursor

    def __next__(self) -> FollowedEvent:
        while not self._come:
            if self._whole or self._closed.is_set():
                raise StopIteration
            self._wait()
        event = self._come.popleft()
        self.cursor = event.cursor
        return event

    def _wait(self) -> None:
        try:
            found = self._more()
        except UnavailableError as error:
            if error.code not in _PASSES:
                raise
            self._bear(error)
            return
        self._failures = 0
        self._whole = found is None
        self._come.extend(found or ())

    def _bear(self, error: UnavailableError) -> None:
        if self._lost is not None and not self._failures:
            self._lost(error)
        longest = min(_LONGEST, _FIRST * 2.0**self._failures)
        self._failures += 1
        self._closed.wait(longest * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come back at once

    def close(self) -> None:
        """Give no more events, and release connections. Any thread may call it: the one that iterates ends soon."""
        self._closed.set()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
