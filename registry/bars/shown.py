"""What ``progress=True`` means where the caller is.

Progress as plain lines on stderr, for work whose output goes to a file, a pipe or a log.

Progress in a notebook: one line of HTML that is updated in place. Needs IPython only, which every notebook has.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Final, Self

from registry.bars.terminal import RichProgress, is_terminal
from registry.errors import UsageError
from registry.figures import clean, size
from registry.progress import SILENT, Progress

_REDRAW_SECONDS: Final = 0.2


def is_notebook() -> bool:
    """Whether this code runs in the kernel of a notebook, so that what is displayed appears below its cell."""
    python = sys.modules.get("IPython")  # not imported by a kernel: not in one
    shell = python.get_ipython() if python is not None else None
    return getattr(shell, "kernel", None) is not None


class NotebookProgress:
    """`registry.progress.Progress` drawn below the cell; leaving the ``with`` block removes the bar."""

    def __init__(self) -> None:
        self._display: Any = None  # handle of what was displayed
        self._what = ""
        self._total = 0
        self._done = 0
        self._drawn = 0.0

    def begin(self, what: str, total: int) -> None:
        self._what, self._total, self._done = clean(what), max(total, 1), 0
        self._draw(self._bar())

    def advance(self, amount: int) -> None:
        self._done += amount
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._draw(self._bar())

    def _bar(self) -> str:
        done = min(self._done, self._total)
        bar = f'<progress value="{done}" max="{self._total}"></progress>'
        return f"{escape(self._what)} {bar} {size(done)} of {size(self._total)}"

    def _draw(self, html: str) -> None:
        from IPython.display import HTML, display

        self._drawn = time.monotonic()
        if self._display is None:
            self._display = display(HTML(html), display_id=True)
        else:
            self._display.update(HTML(html))

    def __enter__(self) -> NotebookProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._draw("")


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


@contextmanager
def shown(progress: Progress | bool) -> Iterator[Progress]:
    """The sink that long work reports to while the ``with`` block runs.

    Args:
        progress: a sink of the caller's own, which is taken as it is; False: nothing is shown; True: a bar on a
            terminal or in a notebook, which is gone afterwards, and elsewhere a line on stderr every ten seconds.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(progress, bool):
        if not progress:
            yield SILENT
        elif is_notebook():
            with NotebookProgress() as below:
                yield below
        elif is_terminal():
            with RichProgress() as bar:
                yield bar
        else:
            with LineProgress() as lines:
                yield lines
    elif callable(getattr(progress, "begin", None)) and callable(getattr(progress, "advance", None)):
        yield progress
    else:
        raise UsageError(
            f"progress is {progress!r}: True, False, or an object with begin(what, total) and advance(amount) is "
            "expected."
        )
