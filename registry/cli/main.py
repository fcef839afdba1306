"""The entry point of the command ``registry``; Ctrl-C is handled before the heavy imports."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from typing import Final, NoReturn

_COLLECT_AFTER: Final = 200_000
"""Allocations between garbage collections, more than a short command makes: nearly all that is imported lasts."""


def main() -> NoReturn:
    """Run this process's command line and exit with its code."""
    try:
        gc.set_threshold(_COLLECT_AFTER)
        # An interpreter that ends looks through everything several times: a quarter of the time of a short command.
        atexit.register(gc.freeze)
        # Finding plugins of pydantic is reading the metadata of every installed package; set to "", they are loaded.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        _fill_closed()
        for stream in (sys.stdout, sys.stderr):
            # A locale that can't encode a character must not end a command.
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from registry.cli.completion import VARIABLES
        from registry.cli.program import answer_shell, run

        asked = any(name in os.environ for name in VARIABLES)
        status = answer_shell() if asked else run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _fill_closed() -> None:
    """Open /dev/null for closed standard streams (``>&-``), so that no other file gets their descriptors."""
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_WRONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


if __name__ == "__main__":
    main()
