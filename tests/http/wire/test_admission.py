"""Seats at work: who waits, who leaves, and who gives a seat up for others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from registry.errors import UnavailableError
from registry.http.wire.admission import Admission, ClientLeftError, Slot

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
    async with asyncio.timeout(30):
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
