"""Progress in a notebook: one line of HTML that is updated in place. Needs IPython only, which every notebook has."""

from __future__ import annotations

import sys
import time
from html import escape
from types import TracebackType
from typing import Any, Final

from registry.figures import clean, size

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
