"""Which revisions a token has loaded from the Hub views: what the parent of a push is inferred from, where its
configuration names a repo and no revision.

Clients with a cache ask for no weights that it has: they send a HEAD for them, or, as transformers 5 does, ask only
which commit a name means. So both are recorded, while the request is answered, since a push may come to another worker
next: once a token, revision and hour. It is an inference, never a proof.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from registry.catalogue.database.database import Database
from registry.errors import RegistryError
from registry.reference import Path
from registry.rights import Principal, Rights
from registry.schemas.usage import Load, Loads

LATELY: Final = timedelta(days=31)
"""How long a load counts."""
MOST: Final = 10_000
"""Loads that are remembered as recorded, and those that wait to be: bounds of memory."""
_PAUSE: Final = 10.0  # seconds without a try, where the database took nothing
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
        self._dropped = False  # some can never be recorded, so that nobody knows whose they were
        self._tried: float | None = None

    def note(self, reference: str, principal: Principal, *, weights: bool) -> None:
        """Record that a revision (``PATH@N``) was loaded, or only told; never fails who asked for it."""
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
        from registry.catalogue.changes import use as changes  # most processes record nothing

        try:
            self._database.change(lambda session: changes.add_loads(session, waiting))
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
        from registry.catalogue.tree import use  # whoever only browses needs none of it

        self.write()
        who = _who(principal)
        with self._lock:
            waiting = [one for one in self._waiting if (one.path, one.who) == (str(path), who)]
            missed = self._problem if waiting or self._dropped else None
        with self._database.read(rights) as session:
            found = {*use.loaded(session, path, who, self._clock() - LATELY)}
        found |= {(one.number, one.weights) for one in waiting}
        weights = {number for number, loaded in found if loaded}
        told = {number for number, loaded in found if not loaded} - weights
        return Loads(tuple(sorted(weights)), tuple(sorted(told)), missed)


def _who(principal: Principal) -> str:
    return principal.token or principal.name
