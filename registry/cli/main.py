"""The entry point of the command ``registry``; Ctrl-C is handled before the heavy imports."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
from typing import Any, Final, NoReturn

_COLLECT_AFTER: Final = 200_000
"""Allocations between garbage collections, more than a short command makes: nearly all that is imported lasts."""
_AGAIN_AFTER: Final = 0.01  # seconds: by then the callback that swallowed an interrupt has returned


def main() -> NoReturn:
    """Run this process's command line and exit with its code."""
    try:
        sys.unraisablehook = _interrupt_again
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


def _interrupt_again(unraised: Any) -> None:
    """Send Ctrl-C again where it struck in a callback or destructor, whose exceptions Python prints and drops.

    One such callback runs at the end of each import, so that an interrupt of a start is often lost there.
    """
    if not issubclass(unraised.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraised)
        return
    main_thread = threading.main_thread().ident  # the one whose system call has to end early
    again = threading.Timer(_AGAIN_AFTER, signal.pthread_kill, (main_thread, signal.SIGINT))
    again.daemon = True
    again.start()


def _fill_closed() -> None:
    """Open /dev/null for closed standard streams (``>&-``), so that no other file gets their descriptors."""
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_WRONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


if __name__ == "__main__":
    main()
