"""The health of a service process: whether its database and store respond, and the row that other replicas see.

Concurrent probes of readiness share one check, so a dependency that hangs blocks one dedicated thread and no request.
The row is written every half minute and removed when the process ends in order; that of a process that was killed stays
for a day, and its time tells.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import secrets
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from anyio import CapacityLimiter, to_thread

from registry.catalogue.database.database import Database
from registry.catalogue.team import sessions
from registry.errors import RegistryError, UnavailableError
from registry.schemas.jobs import Replica, ReplicaFigures
from registry.services.deployment import Deployment
from registry.tensors.artifacts.plan import known_fingerprint
from registry.version import __version__

_CPUINFO: Final = Path("/proc/cpuinfo")

log = logging.getLogger(__name__)


class Heartbeat:
    """Writes the row of this process from a thread of its own.

    Args:
        database: where it is written.
        figures: what this process reports of itself.
        worker: its number among the workers of a service; None: it is the only process.
    """

    def __init__(self, database: Database, figures: Callable[[], ReplicaFigures], worker: int | None) -> None:
        self._database = database
        self._figures = figures
        self._worker = worker
        self._id = secrets.token_hex(8)
        self._processor = _processor()
        self._started = datetime.now(UTC)
        self._failing = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write the row now and from then on."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and remove the row."""
        self._ending.set()
        if self._thread.ident is None:
            return
        self._thread.join()
        try:
            self._database.change(lambda session: sessions.remove(session, self._id))
        except RegistryError as error:
            log.debug("the row of this replica stays: %s", error)

    def _keep(self) -> None:
        while True:
            try:
                self._beat()
            except RegistryError as error:
                if not self._failing:  # once, and not every half minute
                    log.info("what this replica tells of itself can't be written now: %s", error)
                self._failing = True
            except Exception:
                log.exception("what this replica tells of itself can't be written, because of an unexpected error")
            if self._ending.wait(sessions.BEAT.total_seconds()):
                return

    def _beat(self) -> None:
        told = Replica(
            id=self._id,
            host=socket.gethostname(),
            process=os.getpid(),
            worker=self._worker,
            version=__version__,
            processor=self._processor,
            numerics=known_fingerprint(),
            started_at=self._started,
            seen_at=datetime.now(UTC),
            answers=True,
            figures=self._figures(),
        )
        self._database.change(lambda session: sessions.note(session, told))
        self._failing = False


def _processor() -> str | None:
    """The make of the processor, as Linux reports it, or else Python; None: neither does."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    pairs = (line.partition(":") for line in lines)
    named = next((value.strip() for name, _, value in pairs if name.strip() == "model name"), None)
    return named or platform.processor() or None


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
