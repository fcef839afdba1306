"""What ``progress=True`` means where the caller is: a bar on a terminal, one line in a notebook, lines in a log.

On a terminal and in a log it goes to stderr. A notebook needs IPython only, which every notebook has.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from threading import Event, Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from registry.errors import UsageError
from registry.figures import clean, size
from registry.progress import SILENT, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID


_TERMINAL_REDRAW_SECONDS = 0.1


def is_terminal() -> bool:
    """Whether a bar can be drawn on stderr."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class RichProgress:
    """`registry.progress.Progress` drawn by rich; leaving the ``with`` block removes the bar."""

    def __init__(self, *, counts_bytes: bool = True) -> None:
        self._counts_bytes = counts_bytes
        self._enabled = is_terminal()
        self._display: Display | None = None
        self._task: TaskID | None = None
        self._pending = 0
        self._drawn = 0.0

    def begin(self, what: str, total: int) -> None:
        if not self._enabled:
            return
        if self._display is None:
            self._display = self._start()
        if self._task is not None:
            self._display.remove_task(self._task)
        self._pending = 0
        self._task = self._display.add_task(what, total=max(total, 1))

    def advance(self, amount: int) -> None:
        if self._display is None or self._task is None:
            return
        self._pending += amount
        # Progress may be reported per block; the bar is redrawn a few times a second only.
        now = time.monotonic()
        if now - self._drawn >= _TERMINAL_REDRAW_SECONDS:
            self._display.advance(self._task, self._pending)
            self._pending = 0
            self._drawn = now

    def _start(self) -> Display:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        display = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn() if self._counts_bytes else MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(file=sys.stderr, stderr=True),
            transient=True,
            expand=True,
            # Results go to stdout while the bar is drawn, and must not be altered.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        display.start()
        return display

    def pause(self) -> None:
        """Remove the bar so that something can be printed; the next stage draws it again."""
        if self._display is not None:
            self._display.stop()
            self._display = None
            self._task = None

    def __enter__(self) -> RichProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pause()


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

    As a ``with`` block also while no step of it ends, so that a log distinguishes long work from work that hangs.
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
def progress_sink(progress: Progress | bool) -> Iterator[Progress]:
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
