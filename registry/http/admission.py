"""Who may make bytes now: a bounded number at work, a bounded number waiting, the others are told to come again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from registry.errors import UnavailableError


class Admission:
    """Seats for one kind of work. Used on one event loop."""

    def __init__(self, what: str, *, seats: int, queue: int, patience: float) -> None:
        self._what = what
        self._most = seats + queue
        self._patience = patience
        self._free = asyncio.Semaphore(seats)
        self._inside = (
            0  # with a seat or waiting for one; counted at once, where the semaphore takes a turn of the loop
        )

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        """Hold a seat.

        Raises:
            UnavailableError: too many wait already, or none became free in time.
        """
        if self._inside >= self._most:
            raise self._full()
        self._inside += 1
        try:
            await self._take()
            try:
                yield
            finally:
                self._free.release()
        finally:
            self._inside -= 1

    async def _take(self) -> None:
        try:
            await asyncio.wait_for(self._free.acquire(), self._patience)
        except TimeoutError:
            raise self._full() from None

    def _full(self) -> UnavailableError:
        return _too_many(self._what)


class Benches:
    """The same for work in threads, which wait themselves; they are few, so the queue is bounded by that."""

    def __init__(self, what: str, *, seats: int, patience: float) -> None:
        self._what = what
        self._patience = patience
        self._free = threading.BoundedSemaphore(seats)

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Hold a seat.

        Raises:
            UnavailableError: none became free in time.
        """
        if not self._free.acquire(timeout=self._patience):
            raise _too_many(self._what)
        try:
            yield
        finally:
            self._free.release()


def _too_many(what: str) -> UnavailableError:
    return UnavailableError(f"The service has too many {what} under way: try again in a moment.", code="busy")
