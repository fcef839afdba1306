"""Seats at work: who waits, who leaves, and who gives a seat up for others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.errors import UnavailableError
from registry.http.admission import Admission, ClientLeftError, Share, Slot, ThreadAdmission
from registry.http.metrics import SharedValues

Work = Callable[[Slot], Awaitable[None]]


def admission(*, queue: int = 1, timeout: float = 30.0) -> Admission:
    return Admission("bodies", slots=1, queue=queue, timeout=timeout)


def never() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def sit(slots: Admission, gone: asyncio.Future[None], work: Work) -> None:
    async with slots.slot(gone) as slot:
        await work(slot)


def work_until(end: asyncio.Event) -> Work:
    async def work(_: Slot) -> None:
        await end.wait()

    return work


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0)


async def at_once(_: Slot) -> None:
    return None


def test_who_leaves_waits_no_longer_and_keeps_no_place() -> None:
    async def story() -> None:
        slots, gone, end = admission(), never(), asyncio.Event()
        first = asyncio.ensure_future(sit(slots, never(), work_until(end)))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(sit(slots, gone, at_once))
        await until(lambda: slots.contended)
        with pytest.raises(UnavailableError):
            await sit(slots, never(), at_once)
        gone.set_result(None)
        with pytest.raises(ClientLeftError):
            await second
        third = asyncio.ensure_future(sit(slots, never(), at_once))
        await until(lambda: slots.contended)
        end.set()
        await asyncio.gather(first, third)

    asyncio.run(story())


def test_a_seat_that_comes_with_the_leaving_goes_to_the_next() -> None:
    async def story() -> None:
        slots, gone, end = admission(queue=2), never(), asyncio.Event()
        first = asyncio.ensure_future(sit(slots, never(), work_until(end)))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(sit(slots, gone, at_once))
        third = asyncio.ensure_future(sit(slots, never(), at_once))
        await until(lambda: len(slots._queue) == 2)
        end.set()
        await first  # the second has the seat, and has not heard of it yet
        gone.set_result(None)
        with pytest.raises(ClientLeftError):
            await second
        await asyncio.wait_for(third, 30)
        await asyncio.wait_for(sit(slots, never(), at_once), 30)

    asyncio.run(story())


def test_one_who_can_do_without_is_told_when_somebody_waits() -> None:
    async def story() -> None:
        slots, order = admission(), []

        async def blocked(slot: Slot) -> None:
            await slot.until_contended()
            order.append("told")
            slot.release()
            await slot.acquire(30)
            order.append("back")

        async def other(_: Slot) -> None:
            order.append("other")

        first = asyncio.ensure_future(sit(slots, never(), blocked))
        await asyncio.sleep(0)
        assert order == []
        await asyncio.wait_for(sit(slots, never(), other), 30)
        await asyncio.wait_for(first, 30)
        assert order == ["told", "other", "back"]

    asyncio.run(story())


class Worker:
    """One worker of two: its admission, and whoever is inside."""

    def __init__(self, folder: Path, number: int, *, slots: int, queue: int) -> None:
        self.admission = Admission(
            "bodies", slots=slots, queue=queue, timeout=120, place=SharedValues(folder, number, 2)
        )
        self._ends: list[asyncio.Event] = []
        self._inside: list[asyncio.Task[None]] = []
        self.begun = 0

    async def enter(self, count: int, *, hold: int) -> None:
        """Let so many in, and wait until so many of this worker hold a slot."""
        for _ in range(count):
            self._ends.append(asyncio.Event())
            self._inside.append(asyncio.ensure_future(sit(self.admission, never(), self._work(self._ends[-1]))))
        await until(lambda: self.begun == hold)

    def _work(self, end: asyncio.Event) -> Work:
        async def work(_: Slot) -> None:
            self.begun += 1
            await end.wait()

        return work

    async def leave(self, count: int = 1) -> None:
        """The first ones are done."""
        for _ in range(count):
            self._ends.pop(0).set()
            await self._inside.pop(0)


def test_a_worker_uses_what_another_one_leaves_free(tmp_path: Path) -> None:
    """All slots and all of the queue; of neither more than there is."""

    async def story() -> None:
        one, two = (Worker(tmp_path, number, slots=2, queue=3) for number in (1, 2))
        await one.enter(10, hold=4)
        with pytest.raises(UnavailableError, match="too many bodies"):
            await sit(one.admission, never(), at_once)
        await one.leave()
        await until(lambda: one.begun == 5)  # the next one
        await one.leave(9)
        await two.enter(4, hold=4)
        await two.leave(4)

    asyncio.run(story())


def test_a_worker_has_its_share_at_any_time(tmp_path: Path) -> None:
    """Whoever has more gives it back as soon as somebody leaves, and is told that others wait."""

    async def story() -> None:
        one, two = (Worker(tmp_path, number, slots=2, queue=3) for number in (1, 2))
        await one.enter(4, hold=4)
        before = one.admission.contended
        await two.enter(2, hold=2)
        assert (before, one.admission.contended, two.admission.contended) == (False, True, False)
        await one.enter(2, hold=4)  # they wait
        await one.leave(2)
        assert one.begun < 5
        await one.leave(1)
        await until(lambda: one.begun == 5)
        await one.leave(3)
        await two.leave(2)

    asyncio.run(story())


def test_a_killed_worker_leaves_no_place_taken(tmp_path: Path) -> None:
    killed = Share("bodies", 2, SharedValues(tmp_path, 1, 2))
    killed.add(4)
    other = Share("bodies", 2, SharedValues(tmp_path, 2, 2))
    free = []
    for _ in range(2):
        other.add(1)
        free.append(other.is_free)
    successor = Share("bodies", 2, SharedValues(tmp_path, 1, 2))
    assert (successor.mine, other.mine) == (0, 2)
    assert [*free, other.is_free] == [True, False, True]  # its share first


def test_threads_of_a_worker_use_what_another_one_leaves_free(tmp_path: Path) -> None:
    one, two = (
        ThreadAdmission("tables", slots=1, timeout=timeout, place=SharedValues(tmp_path, number, 2))
        for number, timeout in ((1, 0.0), (2, 120.0))
    )
    waited = threading.Event()

    def wait() -> None:
        with two.slot():
            waited.set()

    with ExitStack() as held:
        held.enter_context(one.slot())
        held.enter_context(two.slot())
        with pytest.raises(UnavailableError), one.slot():
            pass
        thread = threading.Thread(target=wait)
        thread.start()
        assert not waited.wait(0.01)
        held.close()
        thread.join()
    assert waited.is_set()
    with one.slot(), one.slot(), pytest.raises(UnavailableError), one.slot():
        pass
