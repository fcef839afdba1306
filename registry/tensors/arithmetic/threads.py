"""Threads for tensor work: each computes alone, results come out in order.

The bytes of an artifact must not depend on the number of threads. One matrix product split over threads may sum in
another order (seen with MKL from about 768 columns on), so every product runs on one thread and the parallelism lies
between blocks. The caller's own torch thread count is left as it was.

Copying needs threads too, and no torch, which takes seconds to import: it has a pool of its own, in which nothing is
computed.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

WINDOW: Final = 40 << 20
"""Bytes of results that are made before the first of them is taken."""

_lock = threading.Lock()
_pools: dict[tuple[int, int, bool], ThreadPoolExecutor] = {}


def available_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _single_threaded() -> None:
    import torch

    torch.set_num_threads(1)
    # torch takes its default over into a thread at the thread's first tensor work; this is that moment, while it is 1
    torch.get_num_threads()


def _pool(lanes: int, computes: bool) -> ThreadPoolExecutor:
    key = (os.getpid(), lanes, computes)  # threads do not survive a fork
    with _lock:
        pool = _pools.get(key)
        if pool is None:
            pool = _pools[key] = _computing(lanes) if computes else ThreadPoolExecutor(lanes, "copy")
        return pool


def _computing(lanes: int) -> ThreadPoolExecutor:
    import torch

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane", initializer=_single_threaded)
    barrier = threading.Barrier(lanes + 1)
    for _ in range(lanes):
        pool.submit(barrier.wait)
    barrier.wait()
    # The initialisers also set the default of threads that start later; put the caller's back.
    torch.set_num_threads(threads)
    return pool


def run_alone(work: Callable[[], R]) -> R:
    """Run one piece of tensor work on a single-threaded lane and wait for it."""
    return _pool(available_cores(), computes=True).submit(work).result()


class Promised(Protocol[R_co]):
    """What is being made on a lane; a `concurrent.futures.Future` is one."""

    def result(self) -> R_co:
        """What was made; waits for it."""

    def cancel(self) -> object:
        """It is not wanted any more: it was taken, or nobody will."""


def in_order(work: Callable[[T], R], items: Iterable[T], *, lanes: int | None = None) -> Iterator[R]:
    """Apply ``work`` to ``items`` on several lanes and yield the results in the order of the items.

    At most two results a lane are under way or waiting, so memory stays bounded for any number of items. When the
    consumer stops early, work that has not begun is dropped.
    """
    return begun_in_order(lambda pool, item: pool.submit(work, item), items, lanes=lanes)


def begun_in_order(
    begin: Callable[[Executor, T], Promised[R]],
    items: Iterable[T],
    *,
    lanes: int | None = None,
    weigh: Callable[[T], int] = lambda _: 0,
    computes: bool = True,
) -> Iterator[R]:
    """The same for work that ``begin`` brings on a lane, or finds begun; ``weigh`` gives the bytes of its result.

    Without ``computes`` it is copying only, and torch is not imported for it.
    """
    lanes = lanes or available_cores()
    pool = _pool(lanes, computes)
    under_way: deque[tuple[Promised[R], int]] = deque()
    weight = 0
    try:
        for item in items:
            under_way.append((begin(pool, item), weigh(item)))
            weight += under_way[-1][1]
            while len(under_way) > 2 * lanes or (weight > WINDOW and len(under_way) > 1):
                weight -= under_way[0][1]
                yield _taken(under_way)
        while under_way:
            yield _taken(under_way)
    finally:
        for promised, _ in under_way:
            promised.cancel()


def _taken(under_way: deque[tuple[Promised[R], int]]) -> R:
    promised, _ = under_way.popleft()
    try:
        return promised.result()
    finally:
        promised.cancel()
