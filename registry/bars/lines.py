"""Progress as plain lines on stderr, for work whose output goes to a file, a pipe or a log."""

from __future__ import annotations

import math
import sys
import time
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Final, Self

from registry.figures import clean, size

_SECONDS: Final = 10.0


class LineProgress:
    """`registry.progress.Progress` as a line for the first stage, and then one every ``seconds`` while work goes on.

    As a ``with`` block also while no step of it ends, so that a log tells long work from work that hangs.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._last = -math.inf
        self._what = ""
        self._total = 0
        self._done = 0
        self._lock, self._over = Lock(), Event()
        self._beat: Thread | None = None

    def begin(self, what: str, total: int) -> None:
        self._what, self._total, self._done = clean(what), total, 0
        self._tell()

    def advance(self, amount: int) -> None:
        self._done += amount
        self._tell()

    def __enter__(self) -> Self:
        self._beat = Thread(target=self._go_on, name="progress", daemon=True)
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._beat is not None:
            self._beat.join()

    def _go_on(self) -> None:
        while not self._over.wait(self._seconds):
            if self._what:
                self._tell()

    def _tell(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._last < self._seconds:
                return
            self._last = now
            self._write()

    def _write(self) -> None:
        done = min(self._done, self._total)
        share = f": {100 * done // self._total} %, {size(done)} of {size(self._total)}" if self._total else ""
        sys.stderr.write(f"{self._what}{share}\n")
        sys.stderr.flush()
