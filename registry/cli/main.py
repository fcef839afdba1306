"""The entry point of the command ``registry``; Ctrl-C is handled before the heavy imports."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Final, NoReturn

_COLLECT_AFTER: Final = 200_000
"""Allocations between garbage collections, more than a short command makes: nearly all that is imported lasts."""
_AGAIN_AFTER: Final = 0.01  # seconds: by then the callback that swallowed an interrupt has mostly returned
_ONE_AND_THE_SAME: Final = 0.5  # seconds


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

    One such callback runs at the end of each import, so that an interrupt of a start is often lost in it.
    """
    if not issubclass(unraised.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraised)
        return
    if threading.current_thread() is threading.main_thread():  # elsewhere it is no signal's
        _Again()


class _Again:
    """Sends Ctrl-C to the main thread until code has it whose exceptions are not dropped.

    Once is not enough: on a busy machine the hook itself is still at work by then, where it is dropped as well.
    """

    def __init__(self) -> None:
        self._taken_at: float | None = None
        now = signal.getsignal(signal.SIGINT)
        of_another = getattr(now, "__self__", None)  # what it sent was dropped again
        self._before: object = of_another._before if isinstance(of_another, _Again) else now
        signal.signal(signal.SIGINT, self._take)
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        main_thread = threading.main_thread().ident  # the one whose system call has to end early
        assert main_thread is not None
        while True:
            time.sleep(_AGAIN_AFTER)
            if self._taken_at is not None or signal.getsignal(signal.SIGINT) != self._take:
                return
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(main_thread, signal.SIGINT)
            else:  # Windows
                _thread.interrupt_main()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if _is_in_hook(frame):
            return
        now = time.monotonic()
        if self._taken_at is not None and now - self._taken_at < _ONE_AND_THE_SAME:
            return  # sent while the one before was being taken
        self._taken_at = now
        if callable(self._before):
            self._before(number, frame)
        else:
            raise KeyboardInterrupt


def _is_in_hook(frame: FrameType | None) -> bool:
    """Whether what is interrupted was called by the hook, whose exceptions are dropped too."""
    while frame is not None:
        if frame.f_code is _interrupt_again.__code__:
            return True
        frame = frame.f_back
    return False


def _fill_closed() -> None:
    """Open /dev/null for closed standard streams (``>&-``), so that no other file gets their descriptors."""
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_WRONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


if __name__ == "__main__":
    main()
