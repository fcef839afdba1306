"""Threads of what only reads: the last idle one first, not more than allowed, errors, and an orderly end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from registry.errors import NotFoundError
from registry.http.dependencies import ReaderThreads


def test_the_thread_that_was_idle_last_is_asked_first() -> None:
    async def ask() -> None:
        threads = ReaderThreads(4)
        both = threading.Barrier(2)
        await asyncio.gather(*(threads.run(both.wait, 60) for _ in range(2)))
        first = await threads.run(threading.get_ident)
        assert {await threads.run(threading.get_ident) for _ in range(20)} == {first}
        assert first != threading.get_ident()
        threads.close()

    asyncio.run(ask())


def test_what_comes_while_all_work_waits_in_its_order() -> None:
    async def ask() -> None:
        threads, go = ReaderThreads(2), threading.Event()
        order: list[int] = []
        held = [asyncio.create_task(threads.run(go.wait, 60)) for _ in range(2)]
        later = [asyncio.create_task(threads.run(order.append, number)) for number in range(5)]
        await asyncio.sleep(0.05)
        assert order == []
        go.set()
        await asyncio.gather(*held, *later)
        assert sorted(order) == list(range(5))
        assert len(threads._all) == 2
        threads.close()

    asyncio.run(ask())


def test_errors_come_back_and_who_left_is_not_told() -> None:
    def fail() -> None:
        raise NotFoundError("nothing there")

    async def ask() -> None:
        threads, go = ReaderThreads(1), threading.Event()
        with pytest.raises(NotFoundError, match="nothing there"):
            await threads.run(fail)
        left = asyncio.create_task(threads.run(go.wait, 60))
        await asyncio.sleep(0.01)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        go.set()
        assert await threads.run(lambda: 7) == 7
        threads.close()
        assert not any(worker.thread.is_alive() for worker in threads._all)

    asyncio.run(ask())
