"""Rounds of work on several threads: a round that was given up writes nothing once the next one has begun."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager


class Rounds:
    """Counts who works in a round, as threads go on for a moment after the one that waits for them was interrupted."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._round = 0
        self._working = 0

    def begin(self) -> int:
        """End the round before: nobody begins to work in it any more, and who does so now is waited for.

        Returns:
            The new round.
        """
        with self._changed:
            self._round += 1
            while self._working:
                self._changed.wait()
            return self._round

    @contextmanager
    def work(self, of: int) -> Iterator[None]:
        """Work of a round; raises `CancelledError` where that has ended."""
        with self._changed:
            if of != self._round:
                raise CancelledError
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()
