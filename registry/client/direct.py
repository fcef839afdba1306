"""Bodies that are received straight into the reader's buffer.

httpx hands a body out in steps of 64 KiB, each copied several times on the way: 1.4 CPU seconds a GiB, where the
standard library's ``readinto`` costs 0.6. So downloads go through this transport of httpx. What it can't do, proxies,
is left to httpx's own, whose bodies are read through the same `reading`.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, cast

import httpx

ReadInto = Callable[[memoryview], int]
"""Fills a buffer, or takes the rest of the body; returns how many bytes, 0 at its end. Raises `httpx.HTTPError`."""

_READ: Final = "readinto"
_STEP: Final = 64 << 10
_Origin = tuple[str, str, int | None]


def reading(answer: httpx.Response) -> ReadInto:
    """How to read the body of a streamed response."""
    own = answer.extensions.get(_READ)
    return cast("ReadInto", own) if own is not None else _Chunks(answer.iter_raw()).readinto


class _Chunks:
    """The chunks of a body, cut as they are requested."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        if not self._left:
            self._left = memoryview(next(self._chunks, b""))
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


class DirectTransport(httpx.BaseTransport):
    """Requests without a body, over connections that are reused; thread-safe.

    Args:
        keep: the most idle connections held open to one origin.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._idle: dict[_Origin, list[http.client.HTTPConnection]] = {}
        self._context: ssl.SSLContext | None = None
        self._closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        origin = (request.url.scheme, request.url.host, request.url.port)
        timeout = request.extensions.get("timeout", {})
        while (idle := self._take(origin)) is not None:
            with suppress(httpx.NetworkError, httpx.RemoteProtocolError):  # the other end has closed it meanwhile
                return self._ask(origin, idle, request)
        return self._ask(origin, self._connect(origin, timeout.get("connect"), timeout.get("read")), request)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _take(self, origin: _Origin) -> http.client.HTTPConnection | None:
        with self._lock:
            kept = self._idle.get(origin)
            return kept.pop() if kept else None

    def _give_back(self, origin: _Origin, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            kept = self._idle.setdefault(origin, [])
            if not self._closed and len(kept) < self._keep:
                kept.append(connection)
                return
        connection.close()

    def _connect(self, origin: _Origin, connect: float | None, read: float | None) -> http.client.HTTPConnection:
        scheme, host, port = origin
        connection = (
            http.client.HTTPSConnection(host, port, timeout=connect, context=self._tls())
            if scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=connect)
        )
        try:
            connection.connect()
        except TimeoutError as problem:
            raise httpx.ConnectTimeout(str(problem)) from problem
        except OSError as problem:
            raise httpx.ConnectError(str(problem)) from problem
        cast("socket.socket", connection.sock).settimeout(read)
        return connection

    def _tls(self) -> ssl.SSLContext:
        with self._lock:
            self._context = self._context or httpx.create_ssl_context()
            return self._context

    def _ask(self, origin: _Origin, connection: http.client.HTTPConnection, request: httpx.Request) -> httpx.Response:
        try:
            with _as_httpx():
                target = request.url.raw_path.decode("ascii")
                connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
                for name, value in request.headers.raw:
                    connection.putheader(name, value)
                connection.endheaders()
                answer = connection.getresponse()
        except BaseException:
            connection.close()
            raise

        def end(*, whole: bool) -> None:
            if whole and not answer.will_close:
                self._give_back(origin, connection)
            else:
                connection.close()

        body = _Body(answer, end)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.getheaders()]
        return httpx.Response(answer.status, headers=headers, stream=body, extensions={_READ: body.readinto})


class _Body(httpx.SyncByteStream):
    """The body of one response."""

    def __init__(self, answer: http.client.HTTPResponse, end: Callable[..., None]) -> None:
        self._answer = answer
        self._end: Callable[..., None] | None = end
        length = answer.getheader("content-length")
        self._left = (
            None if answer.chunked or length is None or not length.isascii() or not length.isdigit() else int(length)
        )

    def __iter__(self) -> Iterator[bytes]:
        buffer = memoryview(bytearray(_STEP))
        while count := self.readinto(buffer):
            yield bytes(buffer[:count])

    def readinto(self, buffer: memoryview) -> int:
        """See `ReadInto`."""
        with _as_httpx():
            count = self._answer.readinto(buffer)
        if self._left is not None:
            if not count and self._left:
                raise httpx.RemoteProtocolError(f"it ended {self._left} bytes early")
            self._left -= count
        return count

    def close(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            whole = self._answer.isclosed() or self._left == 0
            self._answer.close()
            end(whole=whole)


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Errors of the standard library as those of httpx."""
    try:
        yield
    except TimeoutError as problem:
        raise httpx.ReadTimeout(str(problem)) from problem
    except http.client.HTTPException as problem:  # one of them is an OSError too
        raise httpx.RemoteProtocolError(str(problem) or type(problem).__name__) from problem
    except OSError as problem:
        raise httpx.ReadError(str(problem)) from problem
