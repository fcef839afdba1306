"""The web server: `uvicorn` with our sockets, connections and signal handling."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from registry.errors import UnavailableError, UsageError
from registry.folders.local_files import in_words
from registry.http.addresses import http_address
from registry.http.request.limits import Limits
from registry.http.wire.connection import connection_class

_BACKLOG: Final = 512
AFTER_STOP: Final = 10.0  # seconds for operations to be given back
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: there is no such address on this machine.
        UnavailableError: the port is taken.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"The port {port} is out of range: 0 to 65535 are expected.")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{host!r} is not an address of this machine ({in_words(error)}): give one, such as 127.0.0.1."
        ) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise UnavailableError(f"The service can't listen on {host} port {port}: {reason}. Choose another.") from error
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    return http_address(*listener.getsockname()[:2])


class Server(uvicorn.Server):
    """`uvicorn` without its signal handlers: ours exit with status 0."""

    def __init__(self, app: FastAPI, limits: Limits, trusted_proxies: Sequence[str] = ()) -> None:
        config = uvicorn.Config(
            app,
            http=connection_class(limits),
            ws="none",
            loop="auto",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            h11_max_incomplete_event_size=limits.head,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(limits.stop_time)),
        )
        super().__init__(config)
        self.announce: Callable[[], None] | None = None
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.announce is not None:
            self.announce()
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Shut down gracefully; from any thread or signal handler."""
        self.should_exit = True


def end(server: Server, limits: Limits) -> None:
    """Shut a server down gracefully, and its process with it when the time for that is over."""
    server.stop()
    # A thread that hangs can't be stopped: end the process.
    last = threading.Timer(limits.stop_time + AFTER_STOP, os._exit, (0,))
    last.daemon = True
    last.start()


@contextlib.contextmanager
def stopped_by_signals(server: Server, limits: Limits) -> Iterator[None]:
    """SIGTERM and SIGINT: the first shuts down gracefully, the second at once."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        if server.should_exit:
            server.force_exit = True
        else:
            end(server, limits)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
