"""The service process: checks who may reach it, listens, prints its address, runs `uvicorn`, and stops gracefully."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final, Literal

import uvicorn
from fastapi import FastAPI

from registry.catalogue.team.tokens import any_exist
from registry.errors import NotAllowedError, UnavailableError, UsageError
from registry.folders.local_files import in_words
from registry.http.access import Anonymous
from registry.http.connection import connection_class
from registry.http.limits import Limits
from registry.http.middleware import log_to_stderr
from registry.http.origins import http_address, is_loopback
from registry.services.local import LocalRegistry

_BACKLOG: Final = 512
BEFORE_STOP: Final = "before_stop"
"""What the state of an app has to be called, in the loop's thread, when the server begins to stop; none: nothing is."""
AFTER_STOP: Final = 10.0  # seconds for operations to be given back
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: this machine has no such address.
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
        self._before_stop: Callable[[], None] = getattr(app.state, BEFORE_STOP, lambda: None)
        self.announce: Callable[[], None] | None = None
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.announce is not None:
            self.announce()
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._before_stop()  # streams of events have no end of their own, and would be waited for
        await super().shutdown(sockets)

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


def serve(
    registry: LocalRegistry,
    make_app: Callable[[LocalRegistry, Anonymous, Limits], FastAPI],
    *,
    host: str,
    port: int,
    anonymous: Literal["none", "read"] = "none",
    embedded: bool,
    new: bool = False,
    trusted_proxies: Sequence[str] = (),
    limits: Limits | None = None,
) -> None:
    """Serve a registry until SIGTERM or SIGINT; returns when all requests have ended.

    Args:
        registry: unrestricted.
        make_app: makes the ASGI app, given the anonymous access.
        host: an address of this machine, or a name of one.
        port: 0 takes a free one.
        anonymous: access without a token.
        embedded: the registry is a folder: on loopback, and as long as it has no tokens, it is open to this machine.
        new: it was made just now: whoever meant another one reads that this one is empty.
        trusted_proxies: addresses and networks of proxies whose X-Forwarded-For is trusted.
        limits: limits of a request.

    Raises:
        NotAllowedError: the registry may not be served like this.
        UnavailableError: the database or the store can't be used, or the address is taken.
    """
    limits = limits or Limits()
    with open_front(registry, host=host, port=port, anonymous=anonymous, embedded=embedded, new=new) as front:
        log_to_stderr()
        server = Server(make_app(registry, front.access, limits), limits, trusted_proxies)
        server.announce = front.announce
        with stopped_by_signals(server, limits):
            server.run([front.listener])


@dataclass(frozen=True)
class Front:
    """Where a service answers, what it allows without a token, and what its first line says of the registry."""

    listener: socket.socket
    access: Anonymous
    registry: str

    def announce(self) -> None:
        """Say that requests are answered from now on."""
        print(f"Serving {self.registry} on {address_of(self.listener)}", file=sys.stderr, flush=True)


@contextmanager
def open_front(
    registry: LocalRegistry,
    *,
    host: str,
    port: int,
    anonymous: Literal["none", "read"],
    embedded: bool,
    new: bool,
) -> Iterator[Front]:
    """Check that a registry can and may be served, and listen; the arguments and errors are those of `serve`."""
    deployment = registry.deployment
    deployment.database.ping()
    deployment.blobs.ping()
    with deployment.database.read() as session:
        has_tokens = any_exist(session)
    access = allowed_access(host, anonymous, embedded=embedded, has_tokens=has_tokens)
    with closing(listen(host, port)) as listener:
        yield Front(listener, access, f"{deployment.url}{' (new and empty)' if new else ''}")


def allowed_access(host: str, anonymous: Literal["none", "read"], *, embedded: bool, has_tokens: bool) -> Anonymous:
    """The anonymous access at this address.

    Raises:
        NotAllowedError: nobody would have access, or everybody would have all of it.
    """
    if anonymous == "read":
        return "read"
    if embedded and is_loopback(host):
        return "open"  # until a token exists: see `Access`
    if not has_tokens:
        where = f"{host}, which others can reach," if not is_loopback(host) else host
        raise NotAllowedError(
            f"The registry has no tokens, so it is not served on {where} where requests could not be authenticated: "
            "create one with `registry token create --role admin`, or allow reading without a token with --anonymous "
            "read."
        )
    return "none"
