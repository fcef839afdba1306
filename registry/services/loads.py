"""Uses of revisions, and which ones a token has loaded from the Hub views.

Uses are noted in memory when weights are requested, and written in batches, never within a request: by a thread of a
service, or when another process closes the registry. What can't be written never fails a request for weights.

From loads the parent of a push is inferred, if its configuration names a repo and no revision. Clients with a cache
request no weights that it has: they send a HEAD for them, or, as transformers 5 does, request only the commit that a
name means. So both are recorded, while the request is answered, since a push may come to another worker next: once a
token, revision and hour. It is an inference, never a proof.
"""

from __future__ import annotations

import atexit
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from weakref import WeakSet

from registry.catalogue.database.database import Database
from registry.errors import RegistryError
from registry.reference import Path
from registry.rights import Principal, Rights
from registry.schemas.usage import Counted, Interface, Load, Loads, UseKey

LATELY: Final = timedelta(days=31)
"""How long a load counts."""
MOST: Final = 10_000
"""Loads that are remembered as recorded, and those that wait to be: bounds of memory."""
_PAUSE: Final = 10.0  # seconds without a try, if the database accepted nothing
_HEADERS: Final = 8 << 20  # bytes at the beginning of a file that are read for its header; downloads send a HEAD first
_BOUNDED: Final = re.compile(r"bytes=\d+-(\d{1,18})")

log = logging.getLogger(__name__)


def is_header_read(range_: str | None) -> bool:
    """Whether a GET with this ``Range`` reads the header of a file of weights, and no weights."""
    bounded = None if range_ is None else _BOUNDED.fullmatch(range_.strip())
    return bounded is not None and int(bounded[1]) < _HEADERS


class LoadLog:
    """The loads of one registry. Thread-safe.

    Args:
        database: where they are recorded.
        clock: the time.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._recorded: OrderedDict[Load, None] = OrderedDict()
        self._waiting: dict[Load, None] = {}  # that could not be recorded
        self._problem = ""
        self._dropped = False  # some can never be recorded, so that their tokens are unknown
        self._tried: float | None = None

    def note(self, reference: str, principal: Principal, *, weights: bool) -> None:
        """Record that a revision (``PATH@N``) was loaded, or only resolved from a name; never fails the request."""
        path, _, number = reference.rpartition("@")
        if not path:
            return
        hour = self._clock().replace(minute=0, second=0, microsecond=0)
        load = Load(path, int(number), _who(principal), hour, weights)
        with self._lock:
            if load in self._recorded or load in self._waiting:
                return
            if len(self._waiting) >= MOST:
                self._dropped = True
                return
            self._waiting[load] = None
            if self._tried is not None and time.monotonic() - self._tried < _PAUSE:
                return
        self.write()

    def write(self) -> None:
        """Record what waits."""
        with self._lock:
            waiting = sorted(self._waiting)
        if not waiting:
            return
        from registry.catalogue.changes import details as changes

        try:
            self._database.change(lambda session: changes.count_loads(session, waiting))
        except RegistryError as error:
            with self._lock:
                if self._tried is None:
                    log.warning("what tokens load can't be recorded now; their pushes say so: %s", error)
                self._tried, self._problem = time.monotonic(), str(error)
            return
        with self._lock:
            self._tried = None
            for load in waiting:
                self._waiting.pop(load, None)
                self._recorded[load] = None
            while len(self._recorded) > MOST:
                self._recorded.popitem(last=False)

    def of(self, path: Path, principal: Principal, rights: Rights) -> Loads:
        """What a principal has loaded lately of an adapter, as far as that could be recorded."""
        from registry.catalogue.tree import cards

        self.write()
        who = _who(principal)
        with self._lock:
            waiting = [one for one in self._waiting if (one.path, one.who) == (str(path), who)]
            missed = self._problem if waiting or self._dropped else None
        with self._database.read(rights) as session:
            found = {*cards.loaded(session, path, who, self._clock() - LATELY)}
        found |= {(one.number, one.weights) for one in waiting}
        weights = {number for number, loaded in found if loaded}
        told = {number for number, loaded in found if not loaded} - weights
        return Loads(tuple(sorted(weights)), tuple(sorted(told)), missed)


def _who(principal: Principal) -> str:
    return principal.token or principal.name


WRITTEN_EVERY: Final = 10.0
"""Seconds between two writes."""
"""Counts that wait to be written, and downloads that are remembered: a bound of memory."""
ONE_DOWNLOAD: Final = timedelta(minutes=10)
"""Requests for a revision that follow each other within this time belong to one download or load."""
_OF_MANY_REQUESTS: Final = frozenset({"hub", "vllm"})
"""Interfaces whose downloads or loads are several requests each."""
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
        """Note that a revision (``PATH@N``) was requested as weights. A base model alone is not counted."""
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
            from registry.catalogue.changes import details

            self._written = time.monotonic()
            try:
                self._database.change(lambda session: details.count_uses(session, waiting))
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
