"""Progress as plain lines on stderr, for scripts whose output goes to a file or a log."""

from __future__ import annotations

import math
import sys
import time
from typing import Final

from registry.figures import clean, size

_SECONDS: Final = 10.0


class LineProgress:
    """`registry.progress.Progress` as a line for the first stage, and then one every ``seconds`` while work goes on."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._last = -math.inf
        self._what = ""
        self._total = 0
        self._done = 0

    def begin(self, what: str, total: int) -> None:
        self._what, self._total, self._done = clean(what), total, 0
        self._tell()

    def advance(self, amount: int) -> None:
        self._done += amount
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return
        self._last = now
        done = min(self._done, self._total)
        share = f": {100 * done // self._total} %, {size(done)} of {size(self._total)}" if self._total else ""
        sys.stderr.write(f"{self._what}{share}\n")
        sys.stderr.flush()
