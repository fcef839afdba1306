"""Whether what a service stands on can be used: for as many as ask, at the price of one.

Those who watch a service ask again and again, whatever became of their last question. What does not answer must cost
one thread then, which no other request waits for, and not one for each question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from anyio import CapacityLimiter, to_thread

from registry.errors import RegistryError, UnavailableError
from registry.services.deployment import Deployment

_PATIENCE: Final = 8.0  # seconds: longer than a database or a store that is down takes to be known for it


class Readiness:
    """What one service process stands on."""

    def __init__(self, deployment: Deployment) -> None:
        self._checks = {
            "database": _Check(deployment.database.ping),
            "store": _Check(deployment.blobs.ping),
        }

    async def faults(self) -> dict[str, RegistryError]:
        """What can't be used now, and why."""
        found = await asyncio.gather(*(check.fault() for check in self._checks.values()))
        return {what: fault for what, fault in zip(self._checks, found, strict=True) if fault is not None}


class _Check:
    """One thing that is pinged, by one thread at most; those who ask meanwhile are given what that one finds."""

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._thread = CapacityLimiter(1)
        self._going: asyncio.Task[RegistryError | None] | None = None
        self._since = 0.0

    async def fault(self) -> RegistryError | None:
        """What is wrong, or None; an answer that does not come is wrong too."""
        clock = asyncio.get_running_loop().time
        if self._going is None or self._going.done():
            self._going, self._since = asyncio.create_task(self._ask()), clock()
        going = self._going
        await asyncio.wait({going}, timeout=max(0.0, self._since + _PATIENCE - clock()))
        if going.done():
            return going.result()
        return UnavailableError(f"It has not answered for {clock() - self._since:.0f} seconds: see that it runs.")

    async def _ask(self) -> RegistryError | None:
        try:
            await to_thread.run_sync(self._ping, limiter=self._thread)
        except RegistryError as error:
            return error
        return None
