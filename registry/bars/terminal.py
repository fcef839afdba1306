"""A progress bar on stderr, only where stderr is a terminal."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_REDRAW_SECONDS = 0.1


def is_terminal() -> bool:
    """Whether a bar can be drawn on stderr."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class RichProgress:
    """`registry.progress.Progress` drawn by rich; leaving the ``with`` block removes the bar."""

    def __init__(self, *, counts_bytes: bool = True) -> None:
        self._counts_bytes = counts_bytes
        self._enabled = is_terminal()
        self._display: Progress | None = None
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
        if now - self._drawn >= _REDRAW_SECONDS:
            self._display.advance(self._task, self._pending)
            self._pending = 0
            self._drawn = now

    def _start(self) -> Progress:
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
