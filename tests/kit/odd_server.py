"""A server that writes to each connection just what a test says, whether that is HTTP or not; and names for it."""

from __future__ import annotations

import socket
import socketserver
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Thread
from typing import Any, Final, Self

import anyio
import pytest

END: Final = b"\r\n\r\n"
Talk = Callable[[str], Iterable[bytes]]
"""The head of a request -> the pieces of the answer."""


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status} Odd", *headers, f"Content-Length: {len(body)}"]
    if any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers) or status in {
        101,
        304,
    }:
        lines.pop()
    return "\r\n".join(lines).encode() + END + body


class OddServer:
    """It runs while it is entered, and keeps the heads of all requests in ``seen``."""

    def __init__(self, talk: Talk, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[str] = []
        self._tcp = (_Tcp6 if ":" in host else _Tcp)((host, 0), _Connection)
        self._tcp.odd, self._tcp.tls = self, tls
        self.talk = talk
        self.port: Final[int] = self._tcp.server_address[1]
        self._thread = Thread(target=self._tcp.serve_forever, args=(0.02,), name="OddServer")

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._tcp.shutdown()
        self._thread.join()
        self._tcp.server_close()


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128
    odd: OddServer
    tls: ssl.SSLContext | None

    def get_request(self) -> tuple[Any, Any]:
        found, place = super().get_request()
        return found if self.tls is None else self.tls.wrap_socket(found, server_side=True), place

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that the other side ends are what this is for."""


class _Tcp6(_Tcp):
    address_family = socket.AF_INET6


class _Connection(socketserver.BaseRequestHandler):
    server: _Tcp

    def handle(self) -> None:
        head = b""
        while END not in head:
            more = self.request.recv(65536)
            if not more:
                return
            head += more
        odd = self.server.odd
        odd.seen.append(head.decode("latin-1"))
        for piece in odd.talk(odd.seen[-1]):
            self.request.sendall(piece)


def resolving(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, Sequence[str]]) -> list[str]:
    """Let names mean addresses: at each look-up the next one, several at once with commas between; the last one stays.

    Returns:
        The names that are looked up, as they are.
    """
    for name in ("http_proxy", "https_proxy", "all_proxy"):  # it would be asked what the names mean
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    left = {name: list(places) for name, places in names.items()}
    asked: list[str] = []
    system = anyio.getaddrinfo

    async def look_up(host: Any, port: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in left:
            return await system(host, port, **named)
        asked.append(name)
        places = left[name].pop(0) if len(left[name]) > 1 else left[name][0]
        return [row for place in places.split(",") for row in await system(place, port, **named)]

    for place in ("anyio.getaddrinfo", "anyio._core._sockets.getaddrinfo"):  # the other one is asked when connecting
        monkeypatch.setattr(place, look_up)
    return asked
