"""What a quiet machine has not: ``pytest --delays`` and ``--busy N`` show which test depends on who wins.

Now and then a socket sends, shuts down or closes some milliseconds later than it was told to, a thread begins later,
and a service of ours goes on later after it has answered. Nothing else changes: what fails so can fail without it.
Processes of `ServiceProcess` have them too (``late/sitecustomize.py``). This file imports nothing of ours, for them.

Busy processes only burn processor time, and end with the process of pytest that started them.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "TESTS_DELAYS"
LATE: Final = Path(__file__).with_name("late")  # goes into PYTHONPATH of a process that is to have delays

_BUSY: Final = "import os\nwhile os.getppid() == {parent}:\n    sum(range(100_000))"

_SHARE: Final = 0.15  # of all occasions
_LONGEST: Final = 0.03  # seconds
_chance: Final = random.Random()


def wanted() -> bool:
    """Whether this process, or the one that started it, was asked for delays."""
    return VARIABLE in os.environ


def pause() -> float:
    """How long to wait on this occasion: mostly not at all."""
    return _chance.uniform(0, _LONGEST) if _chance.random() < _SHARE else 0.0


def burn(processes: int) -> list[subprocess.Popen[bytes]]:
    """Start so many busy processes."""
    program = _BUSY.format(parent=os.getpid())
    return [subprocess.Popen([sys.executable, "-c", program]) for _ in range(processes)]


def end(burning: list[subprocess.Popen[bytes]]) -> None:
    """End them."""
    for process in burning:
        process.kill()
        process.wait()


def delay_everything(*, services: bool = True) -> None:
    """Delay the sockets and threads of this process from now on, and the ``services`` in it."""
    os.environ[VARIABLE] = "1"
    for name in ("send", "sendall", "shutdown", "close"):
        setattr(socket.socket, name, _late(getattr(socket.socket, name)))
    threading.Thread.run = _late(threading.Thread.run)  # type: ignore[method-assign]
    if services:
        _delay_answers()


def _late(call: Callable[..., Any]) -> Callable[..., Any]:
    def later(self: Any, *given: Any, **more: Any) -> Any:
        time.sleep(pause())
        return call(self, *given, **more)

    return later


def _delay_answers() -> None:
    """The client has an answer before the service notes that it gave it."""
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    send = RequestResponseCycle.send

    async def later(self: RequestResponseCycle, message: MutableMapping[str, Any]) -> None:
        await asyncio.sleep(pause())
        await send(self, message)  # type: ignore[arg-type]
        await asyncio.sleep(pause())

    RequestResponseCycle.send = later  # type: ignore[method-assign, assignment]
