"""A body on its way: which bytes come next, made and sent in turns by whatever thread has the turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, Literal

from registry.http.outlet import Outlet

State = Literal["whole", "gone", "blocked", "turn"]

TURN: Final = 0.5  # seconds
_PACE: Final = 1 << 20  # bytes


class Flow:
    """The bytes ``start`` to ``stop`` of a file. One thread at a time works on it."""

    def __init__(
        self, chunks: Callable[[int, int], Iterator[memoryview]], start: int, stop: int, outlet: Outlet
    ) -> None:
        self.outlet = outlet
        self.sent = 0
        self._chunks = chunks
        self._start = start
        self._stop = stop
        self._pieces: Iterator[memoryview] | None = None
        self._piece = memoryview(b"")  # what is made and not yet sent
        self._stopped = False

    @property
    def needs_seat(self) -> bool:
        """Whether the next byte has yet to be made."""
        return not self._piece

    def begin(self) -> None:
        """Make the first piece."""
        self._piece = self._next()

    def pump(self, *, make: bool) -> State:
        """Send, until the end, or the client takes no more for now, or the turn is over; ``make`` what comes next."""
        over = time.monotonic() + TURN
        try:
            while not self._stopped:
                if not self._piece:
                    if self._start + self.sent >= self._stop:
                        return "whole"
                    if not make:
                        return "turn"
                    self._piece = self._next()
                count = self.outlet.push(self._piece)
                self.sent += count
                self._piece = self._piece[count:]
                if self._piece:
                    return "blocked"
                if time.monotonic() > over:
                    return "turn"
        except ConnectionError:
            pass
        return "gone"

    def stop(self) -> None:
        """The client is gone: make no more; from any thread."""
        self._stopped = True

    def rest(self) -> None:
        """Drop what is made in advance; what comes later is made when it goes on.

        Of the piece that is on its way only what is not sent stays: it may be a view of much more in memory.
        """
        self._piece = memoryview(bytes(self._piece))
        pieces, self._pieces = self._pieces, None
        if pieces is not None:
            end = getattr(pieces, "close", None)
            if end is not None:
                end()

    def close(self) -> None:
        """Let go of everything."""
        self._piece = memoryview(b"")
        try:
            self.rest()
        finally:
            self.outlet.close()

    def _next(self) -> memoryview:
        if self._pieces is None:
            self._pieces = self._chunks(self._start + self.sent, self._stop)
        piece = next(self._pieces, None)
        if piece is None:
            raise AssertionError(f"the file ends at byte {self._start + self.sent}, {self._stop} was promised")
        return piece


class Pace:
    """How long a client may take: ``stall`` seconds for each MiB."""

    def __init__(self, stall: float) -> None:
        self._stall = stall
        self._sent = 0
        self._since = time.monotonic()

    def restart(self) -> None:
        """It had nothing to take until now."""
        self._since = time.monotonic()

    def left(self, sent: int) -> float:
        """Seconds that a client may still take, which has taken so many bytes."""
        now = time.monotonic()
        if sent - self._sent >= _PACE:
            self._sent, self._since = sent, now
        return max(0.0, self._since + self._stall - now)
