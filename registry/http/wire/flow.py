"""The state of a body under way; produced and sent in time slices by worker threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, Literal

from registry.http.wire.socket_writer import SocketWriter

State = Literal["whole", "gone", "blocked", "turn"]

TIME_SLICE: Final = 0.5  # seconds
_PACE: Final = 1 << 20  # bytes


class Flow:
    """The bytes ``start`` to ``stop`` of a file. One thread at a time works on it."""

    def __init__(
        self, chunks: Callable[[int, int], Iterator[memoryview]], start: int, stop: int, writer: SocketWriter
    ) -> None:
        self.writer = writer
        self.sent = 0
        self._chunks = chunks
        self._start = start
        self._stop = stop
        self._pieces: Iterator[memoryview] | None = None
        self._piece = memoryview(b"")  # produced and not yet sent
        self._stopped = False

    @property
    def needs_slot(self) -> bool:
        """Whether the next byte has yet to be produced."""
        return not self._piece

    def begin(self) -> None:
        """Produce the first piece."""
        self._piece = self._next()

    def pump(self, *, make: bool) -> State:
        """Send until the end, the client blocks, or the time slice is over; ``make`` produces further pieces."""
        over = time.monotonic() + TIME_SLICE
        try:
            while not self._stopped:
                if not self._piece:
                    if self._start + self.sent >= self._stop:
                        return "whole"
                    if not make:
                        return "turn"
                    self._piece = self._next()
                count = self.writer.push(self._piece)
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
        """The client is gone: produce no more. Thread-safe."""
        self._stopped = True

    def rest(self) -> None:
        """Drop what was produced ahead; it is made again later.

        Of the current piece only the unsent bytes stay: it may be a view of a larger buffer.
        """
        self._piece = memoryview(bytes(self._piece))
        pieces, self._pieces = self._pieces, None
        if pieces is not None:
            end = getattr(pieces, "close", None)
            if end is not None:
                end()

    def close(self) -> None:
        """Release everything."""
        self._piece = memoryview(b"")
        try:
            self.rest()
        finally:
            self.writer.close()

    def _next(self) -> memoryview:
        if self._pieces is None:
            self._pieces = self._chunks(self._start + self.sent, self._stop)
        piece = next(self._pieces, None)
        if piece is None:
            raise AssertionError(f"the file ends at byte {self._start + self.sent}, {self._stop} was promised")
        return piece


class Pace:
    """The minimum throughput of a client: a MiB in ``stall`` seconds."""

    def __init__(self, stall: float) -> None:
        self._stall = stall
        self._sent = 0
        self._since = time.monotonic()

    def restart(self) -> None:
        """Restart the clock: there was nothing to send."""
        self._since = time.monotonic()

    def left(self, sent: int) -> float:
        """Seconds that are left to a client that has read so many bytes."""
        now = time.monotonic()
        if sent - self._sent >= _PACE:
            self._sent, self._since = sent, now
        return max(0.0, self._since + self._stall - now)
