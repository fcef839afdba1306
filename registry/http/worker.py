"""One worker of a service: a process that answers on a port which it shares with others, until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final, Literal

from registry.errors import RegistryError
from registry.http.request.limits import Limits
from registry.http.request.middleware import log_to_stderr
from registry.http.request.shared_metrics import SharedValues
from registry.http.wire.webserver import Server, end

if TYPE_CHECKING:
    from fastapi import FastAPI

READY: Final = "ready"
Order = Literal["stop", "stop at once"]
MakeService = Callable[[Limits, SharedValues], AbstractContextManager["FastAPI"]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What all workers of a service do; it travels to their processes.

    Args:
        make: opens the registry and makes the app on it.
        listener: the socket that all of them accept from.
        limits: those of one worker.
        trusted_proxies: addresses and networks of proxies whose X-Forwarded-For is trusted.
    """

    make: MakeService
    listener: socket.socket
    limits: Limits
    trusted_proxies: tuple[str, ...] = ()


def work(given: Work, shared: SharedValues, control: Connection) -> None:
    """Answer requests until an order says to stop, or whoever gives orders is gone.

    Says `READY` once. SIGTERM stops this worker alone, and gracefully; another one takes its place.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the supervisor tells us
    log_to_stderr(shared.worker)
    try:
        with given.make(given.limits, shared) as app:
            server = Server(app, given.limits, given.trusted_proxies)
            server.announce = partial(_say_ready, control)
            signal.signal(signal.SIGTERM, lambda _number, _frame: end(server, given.limits))
            threading.Thread(target=_obey, args=(server, given.limits, control), name="orders", daemon=True).start()
            server.run([given.listener])
    except RegistryError as error:
        log.error("the worker can't start: %s", error)
        raise SystemExit(1) from None


def _say_ready(control: Connection) -> None:
    with suppress(OSError):  # nobody is there any more, which `_obey` finds too
        control.send(READY)


def _obey(server: Server, limits: Limits, control: Connection) -> None:
    while True:
        try:
            order: Order = control.recv()
        except (EOFError, OSError):
            end(server, limits)
            return
        if order == "stop at once":
            server.force_exit = True
        end(server, limits)
