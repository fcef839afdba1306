"""Admission control: a fair semaphore with a bounded queue; requests beyond that are rejected (``busy``).

Slots are time-sliced and yielded while a client is slow, so that large bodies and slow clients don't starve others.
Waiters whose client disconnects leave the queue.
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
    """The client disconnected while it waited for a slot."""


class Admission:
    """Slots for one kind of work, on one event loop."""

    def __init__(self, what: str, *, slots: int, queue: int, timeout: float) -> None:
        self._what = what
        self._most = slots + queue
        self._timeout = timeout
        self._free = slots
        self._queue: deque[asyncio.Future[None]] = deque()
        self._yielders: deque[tuple[Slot, asyncio.Future[None]]] = deque()  # holders that can yield their slot
        self._inside = 0  # holders, waiters, and those that yielded

    @property
    def contended(self) -> bool:
        """Whether somebody waits for a slot."""
        return any(not waiting.done() for waiting in self._queue)

    @property
    def inside(self) -> int:
        """How many hold a slot or wait for one."""
        return self._inside

    @asynccontextmanager
    async def slot(self, gone: Gone) -> AsyncIterator[Slot]:
        """Hold a slot, unless the client is ``gone`` before one is free.

        Raises:
            UnavailableError: the queue is full, or no slot became free in time.
            ClientLeftError: the client is gone.
        """
        if self._inside >= self._most:
            raise self._full()
        self._inside += 1
        slot = Slot(self, gone)
        try:
            await slot.acquire(self._timeout)
            yield slot
        finally:
            slot.release()
            self._inside -= 1

    async def _acquire(self, timeout: float, gone: Gone) -> None:
        if self._free and not self.contended:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._ask_to_yield()
        try:
            await asyncio.wait({turn, gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._withdraw(turn)
            raise
        if gone.done() or not turn.done():
            self._withdraw(turn)
            raise ClientLeftError if gone.done() else self._full()

    def _withdraw(self, turn: asyncio.Future[None]) -> None:
        if not turn.cancel():  # a slot was granted in the meantime
            self._pass_on()

    def _ask_to_yield(self) -> None:
        while self._yielders:
            slot, wish = self._yielders.popleft()
            if slot.held and not wish.done():
                wish.set_result(None)
                return

    async def _until_contended(self, slot: Slot) -> None:
        if self.contended:
            return
        wish = (slot, asyncio.get_running_loop().create_future())
        self._yielders.append(wish)
        try:
            await wish[1]
        finally:
            if wish in self._yielders:
                self._yielders.remove(wish)

    def _pass_on(self) -> None:
        """Hand a slot to the first waiter."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _full(self) -> UnavailableError:
        return _too_many(self._what)


class Slot:
    """A slot that can be released and acquired again."""

    def __init__(self, admission: Admission, gone: Gone) -> None:
        self._admission = admission
        self._gone = gone
        self.held = False

    @property
    def contended(self) -> bool:
        """Whether somebody else waits for it."""
        return self._admission.contended

    async def acquire(self, timeout: float) -> None:
        """Wait for a slot at the end of the queue; raises what `Admission.slot` raises."""
        if not self.held:
            await self._admission._acquire(timeout, self._gone)
            self.held = True

    async def until_contended(self) -> None:
        """Wait until somebody else needs the slot; for holders that can yield it."""
        await self._admission._until_contended(self)

    def release(self) -> None:
        """Pass the slot on."""
        if self.held:
            self.held = False
            self._admission._pass_on()


class ThreadAdmission:
    """Admission for worker threads, which block while they wait; the size of the pool bounds the queue."""

    def __init__(self, what: str, *, slots: int, timeout: float) -> None:
        self._what = what
        self._timeout = timeout
        self._free = threading.BoundedSemaphore(slots)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot.

        Raises:
            UnavailableError: none became free in time.
        """
        if not self._free.acquire(timeout=self._timeout):
            raise _too_many(self._what)
        try:
            yield
        finally:
            self._free.release()


def _too_many(what: str) -> UnavailableError:
    return UnavailableError(f"The service has too many {what} in progress: try again in a moment.", code="busy")
