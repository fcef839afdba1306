"""The entry point of the command ``registry``. It imports nothing before Ctrl-C is quiet."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from typing import Final, NoReturn

_COLLECT_AFTER: Final = 100_000
"""New objects between two looks for garbage. Imports make many that live on: looking for it every 700 takes 0.1 s."""


def main() -> NoReturn:
    """Run the command line of this process and end it with the exit code."""
    gc.set_threshold(_COLLECT_AFTER)
    try:
        _fill_closed()
        for stream in (sys.stdout, sys.stderr):
            # A locale that can't write a character must not end a command.
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from registry.cli.program import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _fill_closed() -> None:
    """Let a stream that was closed (``>&-``) be empty, and its number not be that of a file of the registry."""
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_WRONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


if __name__ == "__main__":
    main()
