"""Uses of revisions: noted in memory when weights are asked for, and written in batches, never within a request.

A service writes from a thread of its own; another process writes when it closes the registry, or after a fetch, if it
wrote nothing for a while. What can't be written never fails who asked for the weights.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from weakref import WeakSet

from registry.catalogue.database.database import Database
from registry.errors import RegistryError
from registry.rights import Principal
from registry.schemas.usage import Counted, Interface, UseKey
from registry.services.loads import LoadLog

WRITTEN_EVERY: Final = 10.0
"""Seconds between two writes."""
MOST: Final = 10_000
"""Counts that wait to be written, and downloads that are remembered: a bound of memory."""
ONE_DOWNLOAD: Final = timedelta(minutes=10)
"""Requests for a revision that follow each other within this time belong to one download or load."""
_OF_MANY_REQUESTS: Final = frozenset({"hub", "vllm"})
"""Interfaces where one download or load is several requests."""

log = logging.getLogger(__name__)
_OPEN: Final[WeakSet[UseLog]] = WeakSet()


class UseLog:
    """The uses of one registry that are not written yet. Thread-safe.

    Args:
        database: where they are written.
        clock: the time, for tests.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: dict[UseKey, Counted] = {}
        self._dropped = 0
        self._downloads: OrderedDict[tuple[str, str, str, str | None], datetime] = OrderedDict()
        self._written: float | None = None
        self._failing = False
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self.loads = LoadLog(database, clock)
        _OPEN.add(self)

    def note(self, reference: str, interface: Interface, principal: Principal) -> None:
        """Note that a revision (``PATH@N``) was asked for as weights. A base model alone is not counted."""
        path, _, number = reference.rpartition("@")
        if not path:
            return
        now, who = self._clock(), principal.token or principal.name
        with self._lock:
            goes_on = interface in _OF_MANY_REQUESTS and self._goes_on(
                (reference, interface, who, principal.source), now
            )
            key = UseKey(path, int(number), now.date(), interface, who)
            before = self._waiting.get(key)
            if before is None and len(self._waiting) >= MOST:
                self._dropped += 1
                return
            count = 0 if before is None else before.count
            self._waiting[key] = Counted(count if goes_on else count + 1, now)

    def _goes_on(self, download: tuple[str, str, str, str | None], now: datetime) -> bool:
        """Whether a request belongs to a download that was counted already."""
        last = self._downloads.get(download)
        self._downloads[download] = now
        self._downloads.move_to_end(download)
        if len(self._downloads) > MOST:
            self._downloads.popitem(last=False)
        return last is not None and now - last < ONE_DOWNLOAD

    def start(self) -> None:
        """Write from a thread of its own from now on, as a service does; what fails is tried again."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, args=[self._ending], name="uses", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, and write what waits."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.write()

    def write_if_due(self) -> None:
        """Write what waits, unless something was written just now, or a thread does it."""
        due = self._written is None or time.monotonic() - self._written >= WRITTEN_EVERY
        if self._thread is None and due:
            self.write()

    def write(self) -> None:
        """Write what waits. Without a thread that tries again, what can't be written is dropped."""
        self.loads.write()
        with self._writing:
            with self._lock:
                waiting, self._waiting = self._waiting, {}
                dropped, self._dropped = self._dropped, 0
            if dropped:
                log.warning("%d uses were not counted, because too many were waiting to be written", dropped)
            if not waiting:
                return
            from registry.catalogue.changes import use  # most processes have no use to write

            self._written = time.monotonic()
            try:
                self._database.change(lambda session: use.add(session, waiting))
            except RegistryError as error:
                self._failed(waiting, error)
            else:
                self._failing = False

    def _failed(self, waiting: dict[UseKey, Counted], error: RegistryError) -> None:
        if self._thread is None:
            log.debug("uses are not counted: %s", error)
            return
        if not self._failing:  # once, and not every few seconds
            log.warning("uses can't be written now, and are kept: %s", error)
        self._failing = True
        with self._lock:
            for key, counted in self._waiting.items():
                before = waiting.get(key)
                if before is not None:
                    waiting[key] = Counted(before.count + counted.count, counted.last_used_at)
                elif len(waiting) < MOST:
                    waiting[key] = counted
                else:
                    self._dropped += counted.count
            self._waiting = waiting

    def _keep_writing(self, ending: threading.Event) -> None:
        while not ending.wait(WRITTEN_EVERY):
            try:
                self.write()
            except Exception:
                log.exception("uses could not be written, because of an unexpected error")


def _write_all() -> None:
    for each in list(_OPEN):
        each.write()


atexit.register(_write_all)  # of registries that were not closed
