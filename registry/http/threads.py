"""Worker threads of what only reads. The one that was idle last is asked first: what it needs is still in the caches.

A pool of the standard library hands work round all of its threads in turn, which takes twice as long for a short read.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]


class ReaderThreads:
    """Threads that are started as they are needed. All but `close` is called by one event loop.

    Args:
        most: threads; what comes while all of them work, waits in its order.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._waiting: deque[_Job] = deque()

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """The result of ``work(*given)``, or its error, from one of the threads."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = (work, given, future)
        if self._idle:
            self._idle.pop().jobs.put(job)
        elif len(self._all) < self._most:
            self._all.append(_Worker(self._done, f"reader-{len(self._all)}"))
            self._all[-1].jobs.put(job)
        else:
            self._waiting.append(job)
        return await future

    def _done(self, worker: _Worker, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if self._waiting:
            worker.jobs.put(self._waiting.popleft())
        else:
            self._idle.append(worker)
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def close(self) -> None:
        """End all threads once they have done what they do."""
        for worker in self._all:
            worker.jobs.put(None)
        for worker in self._all:
            worker.thread.join()


class _Worker:
    def __init__(self, done: Callable[..., None], name: str) -> None:
        self.jobs: Final[SimpleQueue[_Job | None]] = SimpleQueue()
        self._done = done
        self.thread: Final = threading.Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            work, given, future = job
            result, error = None, None
            try:
                result = work(*given)
            except BaseException as raised:  # noqa: BLE001 - whoever waits gets it
                error = raised
            try:
                future.get_loop().call_soon_threadsafe(self._done, self, future, result, error)
            except RuntimeError:  # the loop was stopped meanwhile, and nobody waits
                return
            del job, work, given, future, result, error  # nothing is kept until the next one
