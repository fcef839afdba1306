"""Who may make bytes now: a bounded number at work, a bounded number waiting, the others are told to come again.

Nobody holds a seat for long while others wait: work goes on in turns. So a large body does not keep small ones from
their first byte, and one whose client takes its time keeps nobody. Whose client is gone waits no longer.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from registry.errors import UnavailableError

Gone = asyncio.Future[None]
"""Done when a client went away."""


class ClientLeftError(Exception):
    """The client went away while it waited for a seat: there is nobody to answer."""


class Admission:
    """Seats for one kind of work. Used on one event loop."""

    def __init__(self, what: str, *, seats: int, queue: int, patience: float) -> None:
        self._what = what
        self._most = seats + queue
        self._patience = patience
        self._free = seats
        self._queue: deque[asyncio.Future[None]] = deque()
        self._wishes: deque[tuple[Seat, asyncio.Future[None]]] = deque()  # of those who can do without their seat
        self._inside = 0  # with a seat, waiting for one, or away from it

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a seat."""
        return any(not waiting.done() for waiting in self._queue)

    @asynccontextmanager
    async def seat(self, gone: Gone) -> AsyncIterator[Seat]:
        """Hold a seat, unless the client is ``gone`` before there is one.

        Raises:
            UnavailableError: too many are inside already, or no seat became free in time.
            ClientLeftError: the client is gone.
        """
        if self._inside >= self._most:
            raise self._full()
        self._inside += 1
        seat = Seat(self, gone)
        try:
            await seat.take(self._patience)
            yield seat
        finally:
            seat.leave()
            self._inside -= 1

    async def _take(self, patience: float, gone: Gone) -> None:
        if self._free and not self.wanted:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._ask_for_one()
        try:
            await asyncio.wait({turn, gone}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._withdraw(turn)
            raise
        if gone.done() or not turn.done():
            self._withdraw(turn)
            raise ClientLeftError if gone.done() else self._full()

    def _withdraw(self, turn: asyncio.Future[None]) -> None:
        if not turn.cancel():  # it was given a seat at the last moment
            self._give_on()

    def _ask_for_one(self) -> None:
        """Let one of those who can do without their seat know that somebody waits for one."""
        while self._wishes:
            seat, wish = self._wishes.popleft()
            if seat.held and not wish.done():
                wish.set_result(None)
                return

    async def _until_wanted(self, seat: Seat) -> None:
        if self.wanted:
            return
        wish = (seat, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        try:
            await wish[1]
        finally:
            if wish in self._wishes:
                self._wishes.remove(wish)

    def _give_on(self) -> None:
        """Give a seat to who waits the longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _full(self) -> UnavailableError:
        return _too_many(self._what)


class Seat:
    """A place at work, which may be left to others for a while."""

    def __init__(self, admission: Admission, gone: Gone) -> None:
        self._admission = admission
        self._gone = gone
        self.held = False

    @property
    def wanted(self) -> bool:
        """Whether somebody else waits for it."""
        return self._admission.wanted

    async def take(self, patience: float) -> None:
        """Wait for a seat, behind all who wait already; raises what `Admission.seat` raises."""
        if not self.held:
            await self._admission._take(patience, self._gone)
            self.held = True

    async def until_wanted(self) -> None:
        """Wait until somebody else wants it: for who holds it and can do without it for now. Others are not asked."""
        await self._admission._until_wanted(self)

    def leave(self) -> None:
        """Let somebody else have it."""
        if self.held:
            self.held = False
            self._admission._give_on()


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
