"""What ``progress=True`` means where the caller is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from registry.bars.lines import LineProgress
from registry.bars.notebook import NotebookProgress, is_notebook
from registry.bars.terminal import RichProgress, is_terminal
from registry.errors import UsageError
from registry.progress import SILENT, Progress


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
