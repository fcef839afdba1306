"""A TCP proxy before PostgreSQL that breaks a connection at one moment of a chosen transaction.

    with Wire(postgres.port) as wire:
        wire.cuts.append(Cut("my message", "after"))
        ...  # whoever connects to wire.port and commits a row with that text

The moments: ``before``, when the text is on its way to the server; ``in``, when the transaction that holds it is to be
committed, and the server doesn't hear of it; ``after``, when the server has committed, and nobody hears of that.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

Moment = Literal["before", "in", "after"]
_COMMIT = b"Q\0\0\0\x0bCOMMIT\0"  # a query of the simple protocol, as drivers send it
_CHUNK = 64 * 1024


@dataclass
class Cut:
    """A connection that is to break, once; ``then`` is called at that moment, before anybody notices."""

    text: str
    moment: Moment
    then: Callable[[], None] = lambda: None
    struck: threading.Event = field(default_factory=threading.Event)


class Wire:
    """The proxy, on a loopback port of its own while the ``with`` block lasts."""

    def __init__(self, server_port: int) -> None:
        self.cuts: list[Cut] = []
        self._server_port = server_port
        self._lock = threading.Lock()
        self._open: set[_Link] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._thread = threading.Thread(target=self._accept, name="wire")

    @property
    def port(self) -> int:
        """What clients are given in place of the server's port."""
        port: int = self._listener.getsockname()[1]
        return port

    def take(self, data: bytes) -> Cut | None:
        """The cut that waits for a text that has come; it strikes once."""
        with self._lock:
            found = next((cut for cut in self.cuts if cut.text.encode() in data), None)
            if found is not None:
                self.cuts.remove(found)
            return found

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), timeout=60)
                server.settimeout(None)
            except OSError:  # what the client sees of a server that is down
                client.close()
                continue
            link = _Link(self, client, server)
            with self._lock:
                self._open.add(link)
            link.start()

    def gone(self, link: _Link) -> None:
        """A connection has ended."""
        with self._lock:
            self._open.discard(link)

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._thread.join()
        for link in list(self._open):
            link.close()


class _Link:
    """One connection: a thread for each direction."""

    def __init__(self, wire: Wire, client: socket.socket, server: socket.socket) -> None:
        self._wire = wire
        self._client = client
        self._server = server
        self._cut: Cut | None = None
        self._committing = False  # the answer to the commit is the next thing that the server says
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for pump in (self._to_server, self._to_client):
            threading.Thread(target=pump, name="wire", daemon=True).start()

    def _to_server(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(_CHUNK):
                if self._cut is None:
                    self._cut = self._wire.take(data)
                if self._cut is not None and self._cut.moment == "before":
                    self._strike(self._cut)
                if self._cut is not None and _COMMIT in data:
                    if self._cut.moment == "in":
                        self._strike(self._cut)
                    self._committing = True
                self._server.sendall(data)  # not after a strike: it is closed
        self.close()

    def _to_client(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(_CHUNK):
                if self._cut is not None and self._committing:
                    self._strike(self._cut)
                self._client.sendall(data)
        self.close()

    def _strike(self, cut: Cut) -> None:
        cut.then()
        self.close()
        cut.struck.set()

    def close(self) -> None:
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._wire.gone(self)
