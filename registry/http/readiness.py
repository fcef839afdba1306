"""Readiness: whether the database and the store of a service respond.

Concurrent probes share one check, so a dependency that hangs blocks one dedicated thread and no request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from anyio import CapacityLimiter, to_thread

from registry.errors import RegistryError, UnavailableError
from registry.services.deployment import Deployment

_TIMEOUT: Final = 8.0  # seconds: above the connect timeouts of database and store


class Readiness:
    """The dependencies of one service process."""

    def __init__(self, deployment: Deployment) -> None:
        self._checks = {
            "database": _Check(deployment.database.ping),
            "store": _Check(deployment.blobs.ping),
        }

    async def failures(self) -> dict[str, RegistryError]:
        """What can't be used now, and why."""
        found = await asyncio.gather(*(check.failure() for check in self._checks.values()))
        return {what: failure for what, failure in zip(self._checks, found, strict=True) if failure is not None}


class _Check:
    """A liveness check on at most one thread; concurrent callers share its result."""

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._thread = CapacityLimiter(1)
        self._going: asyncio.Task[RegistryError | None] | None = None
        self._since = 0.0

    async def failure(self) -> RegistryError | None:
        """The error, or None; a timeout is an error."""
        clock = asyncio.get_running_loop().time
        if self._going is None or self._going.done():
            self._going, self._since = asyncio.create_task(self._ask()), clock()
        going = self._going
        await asyncio.wait({going}, timeout=max(0.0, self._since + _TIMEOUT - clock()))
        if going.done():
            return going.result()
        return UnavailableError(
            f"It has not answered for {clock() - self._since:.0f} seconds: check that it is running."
        )

    async def _ask(self) -> RegistryError | None:
        try:
            await to_thread.run_sync(self._ping, limiter=self._thread)
        except RegistryError as error:
            return error
        return None
