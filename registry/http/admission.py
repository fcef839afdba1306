"""Admission control: a fair semaphore with a bounded queue; requests beyond that are rejected (``busy``).

Slots are time-sliced and yielded while a client is slow, so that large bodies and slow clients don't starve others.
Waiters whose client disconnects leave the queue. Workers of one service share slots and queue: each has its share at
any time, and what others leave free of theirs (decision 36).
"""

from __future__ import annotations

import asyncio
import mmap
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from registry.errors import UnavailableError
from registry.http.context import Receive
from registry.http.metrics import SharedValues

Gone = asyncio.Future[None]
"""Done when a client went away."""
_LOOK_AGAIN: Final = 0.2  # seconds: what other workers give back wakes no thread of this one


class Share:
    """How many of something this worker has, and what it may have: its share, or more while others have less.

    The numbers of all workers are in a file that each of them maps, and each writes its own. So they need no lock, and
    a worker that is killed leaves none behind; two that take the last one at once may have one too many together.

    Args:
        what: is counted; the same in all workers.
        most: the share of one worker.
        place: the workers; None where this is the only one.
    """

    def __init__(self, what: str, most: int, place: SharedValues | None = None) -> None:
        self._most = most
        self._workers = 1 if place is None else place.workers
        self._index = 0 if place is None else place.worker - 1
        size = self._workers * 4
        if place is None:
            self._counts = memoryview(bytearray(size)).cast("I")
        else:
            with (place.folder / f"share-{what.replace(' ', '-')}").open("a+b") as file:
                file.truncate(size)
                self._counts = memoryview(mmap.mmap(file.fileno(), size)).cast("I")
        self._counts[self._index] = 0  # of a worker whose place this one takes

    @property
    def mine(self) -> int:
        """How many this worker has."""
        return self._counts[self._index]

    @property
    def is_free(self) -> bool:
        """Whether this worker may have one more."""
        return self.mine < self._most or sum(self._counts) < self._most * self._workers

    @property
    def is_overdrawn(self) -> bool:
        """Whether this worker has some that others could have by now."""
        return self.mine > self._most and sum(self._counts) > self._most * self._workers

    def add(self, count: int) -> None:
        """Note that it has so many more."""
        self._counts[self._index] += count


class ClientLeftError(Exception):
    """The client disconnected while it waited for a slot, or for bytes."""


async def until_gone(receive: Receive) -> None:
    """Wait until the client of a request whose body was received disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Admission:
    """Slots for one kind of work, on one event loop; slots and queue are the share of one worker."""

    def __init__(self, what: str, *, slots: int, queue: int, timeout: float, place: SharedValues | None = None) -> None:
        self._what = what
        self._timeout = timeout
        self._held = Share(f"{what} held", slots, place)
        self._queue: deque[asyncio.Future[None]] = deque()
        self._yielders: deque[tuple[Slot, asyncio.Future[None]]] = deque()  # holders that can yield their slot
        self._inside = Share(f"{what} inside", slots + queue, place)  # holders, waiters, and those that yielded

    @property
    def contended(self) -> bool:
        """Whether somebody waits for a slot, here or where it was left free."""
        return any(not waiting.done() for waiting in self._queue) or self._held.is_overdrawn

    @property
    def inside(self) -> int:
        """How many hold a slot of this worker or wait for one."""
        return self._inside.mine

    @asynccontextmanager
    async def slot(self, gone: Gone) -> AsyncIterator[Slot]:
        """Hold a slot, unless the client is ``gone`` before one is free.

        Raises:
            UnavailableError: the queue is full, or no slot became free in time.
            ClientLeftError: the client is gone.
        """
        if not self._inside.is_free:
            raise self._full()
        self._inside.add(1)
        slot = Slot(self, gone)
        try:
            await slot.acquire(self._timeout)
            yield slot
        finally:
            slot.release()
            self._inside.add(-1)

    async def _acquire(self, timeout: float, gone: Gone) -> None:
        if self._held.is_free and not self.contended:
            self._held.add(1)
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
        """Hand a slot to the first waiter, and more if other workers left some.

        Nobody has to be woken by those: if somebody waits, a slot of this worker is held, and is passed on soon.
        """
        self._held.add(-1)
        while self._queue and self._held.is_free:
            turn = self._queue.popleft()
            if not turn.done():
                self._held.add(1)
                turn.set_result(None)

    def _full(self) -> UnavailableError:
        return too_many(self._what)


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

    def __init__(self, what: str, *, slots: int, timeout: float, place: SharedValues | None = None) -> None:
        self._what = what
        self._timeout = timeout
        self._held = Share(f"{what} held", slots, place)
        self._changed = threading.Condition()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot.

        Raises:
            UnavailableError: none became free in time.
        """
        until = time.monotonic() + self._timeout
        with self._changed:
            while not self._held.is_free:
                left = until - time.monotonic()
                if left <= 0:
                    raise too_many(self._what)
                self._changed.wait(min(left, _LOOK_AGAIN))
            self._held.add(1)
        try:
            yield
        finally:
            with self._changed:
                self._held.add(-1)
                self._changed.notify()


def too_many(what: str) -> UnavailableError:
    """The error of a request for which there is no place."""
    return UnavailableError(f"The service has too many {what} in progress: try again in a moment.", code="busy")
