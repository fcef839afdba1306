"""An HTTP proxy with programmable faults, to stand between a real client and a real server.

    with Shim(s3_store.endpoint) as shim:
        shim.faults.append(Fault(method="PUT", status=503, times=2))
        ...  # clients that are given shim.url
        assert [one.status for one in shim.seen("PUT")] == [503, 503, 200]

Requests are passed on as they come, ``Host`` included, so that signatures hold. The first fault that matches and is
not used up strikes. What passed is counted in bytes of bodies.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_CHUNK = 64 * 1024
_PATIENCE = 60.0
# Said anew by this proxy, because they are about one connection and not about the message.
_HOP = {"connection", "keep-alive", "expect", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}


@dataclass(frozen=True)
class Asked:
    """A request as a test's own answer sees it."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass
class Fault:
    """What happens to a request whose method and target (path and query) match. All given things happen."""

    method: str | None = None
    target: str = ""  # a regular expression, searched
    skip: int = 0  # so many such requests pass before it strikes
    times: int | None = None  # how often it strikes; None: always
    delay: float = 0.0  # seconds before anything else
    change_request: Callable[[bytes], bytes] | None = None  # other bytes reach the server; of the same length
    then: Callable[[], None] | None = None  # called before the request reaches the server, or after ``at`` bytes of it
    at: int = 0
    cut_request: int | None = None  # so many bytes reach the server, then the connections break
    status: int | None = None  # the answer, without asking the server
    headers: dict[str, str] = field(default_factory=dict)  # of such an answer
    body: bytes = b""
    answer: Callable[[Asked], tuple[int, bytes]] | None = None  # status and body, without asking the server
    lose_answer: bool = False  # the server does it, the client hears nothing, or ``status`` in place of the answer
    change_answer: Callable[[bytes], bytes] | None = None  # other bytes reach the client; of the same length
    cut_answer: int | None = None  # so many bytes reach the client, then the connection breaks

    def matches(self, method: str, target: str) -> bool:
        return self.method in {None, method} and re.search(self.target, target) is not None


@dataclass(frozen=True)
class Seen:
    """A request that came. ``status`` is 0 when the client got no answer."""

    method: str
    target: str
    status: int
    sent: int  # bytes of the request's body that came from the client
    received: int  # bytes of the answer's body that went to the client
    code: str = ""  # X-Error-Code of the answer


def flip_first_byte(data: bytes) -> bytes:
    """For `Fault.change_request` and `Fault.change_answer`."""
    return bytes([data[0] ^ 1]) + data[1:] if data else data


class Shim:
    """The proxy, on a loopback port of its own while the ``with`` block lasts.

    ``like_s3``: an answer that is a part of an object says 206, as S3 does; rclone says 200.
    """

    def __init__(self, server: str, *, like_s3: bool = False) -> None:
        self.like_s3 = like_s3
        parts = urlsplit(server)
        assert parts.scheme == "http"
        assert parts.hostname is not None
        self.server = (parts.hostname, parts.port or 80)
        self.faults: list[Fault] = []
        self._seen: list[Seen] = []
        self._going = 0
        self._forgotten = 0
        self._lock = threading.Condition()
        self._http = _Server(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name="shim")

    @property
    def url(self) -> str:
        """What clients are given in place of the server's address."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def seen(self, method: str | None = None, target: str = "") -> list[Seen]:
        """The requests so far, in the order in which they ended; waits for those that are under way."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._going == 0, _PATIENCE), "a request does not end"
            return [
                one for one in self._seen if method in {None, one.method} and re.search(target, one.target) is not None
            ]

    def forget(self) -> None:
        """Begin `seen` anew, also without the requests that are still under way: a client has its answer before."""
        with self._lock:
            self._seen.clear()
            self._forgotten += 1

    def strike(self, method: str, target: str) -> tuple[Fault, int]:
        """The fault of a request that has just come, one that does nothing when none matches; and what `note` needs."""
        with self._lock:
            self._going += 1
            for fault in self.faults:
                if fault.times != 0 and fault.matches(method, target):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    if fault.times is not None:
                        fault.times -= 1
                    return fault, self._forgotten
            return Fault(), self._forgotten

    def note(self, seen: Seen, came: int) -> None:
        """Remember a request that has ended, unless it came before `forget`."""
        with self._lock:
            self._going -= 1
            if came == self._forgotten:
                self._seen.append(seen)
            self._lock.notify_all()

    def __enter__(self) -> Shim:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client may keep an idle connection open for as long as it likes
    request_queue_size = 128

    def __init__(self, shim: Shim) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.shim = shim

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are what this is for."""


class _BrokenError(Exception):
    """The connection to the client is to be broken off."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def _pass_on(self) -> None:
        shim = self.server.shim
        fault, came = shim.strike(self.command, self.path)
        self._status = self._sent = self._received = 0
        self._code = ""
        try:
            time.sleep(fault.delay)
            if fault.answer is not None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, b"".join(self._body()))
                self._answer_alone(*fault.answer(asked), fault.headers)
            elif fault.status is not None and not fault.lose_answer:
                self._drain()
                self._answer_alone(fault.status, fault.body, fault.headers)
            else:
                self._exchange(fault)
            self.wfile.flush()
        except (_BrokenError, OSError, HTTPException):  # the last: the server's answer ends too early
            self.close_connection = True
        finally:
            shim.note(Seen(self.command, self.path, self._status, self._sent, self._received, self._code), came)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = do_OPTIONS = _pass_on  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silence: tests look at `Shim.seen`."""

    def handle_expect_100(self) -> bool:
        """Clients wait a second for this."""
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def _exchange(self, fault: Fault) -> None:
        connection = HTTPConnection(*self.server.shim.server, timeout=60)
        try:
            self._send(connection, fault)
            answer = connection.getresponse()
            if fault.lose_answer:
                answer.read()
                if fault.status is None:
                    raise _BrokenError
                self._answer_alone(fault.status, fault.body, fault.headers)
                return
            self._relay(answer, fault)
        finally:
            connection.close()

    def _send(self, connection: HTTPConnection, fault: Fault) -> None:
        then = fault.then
        if then is not None and not fault.at:
            then = then()
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP:
                connection.putheader(name, value)
        connection.endheaders()
        first = True
        for chunk in self._body():
            if fault.cut_request is not None and self._sent >= fault.cut_request:
                connection.send(chunk[: len(chunk) - (self._sent - fault.cut_request)])
                raise _BrokenError
            connection.send(fault.change_request(chunk) if fault.change_request and first else chunk)
            first = False
            if then is not None and self._sent >= fault.at:
                then = then()
        if fault.cut_request is not None:
            raise _BrokenError

    def _body(self) -> Any:
        rest = int(self.headers.get("Content-Length", 0))
        while rest:
            chunk = self.rfile.read(min(_CHUNK, rest))
            if not chunk:
                raise _BrokenError
            rest -= len(chunk)
            self._sent += len(chunk)
            yield chunk

    def _drain(self) -> None:
        for _ in self._body():
            pass

    def _answer_alone(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self._give(body)

    def _relay(self, answer: HTTPResponse, fault: Fault) -> None:
        part = self.server.shim.like_s3 and answer.status == 200 and "Content-Range" in answer.headers
        self._status = 206 if part else answer.status
        self._code = answer.headers.get("X-Error-Code", "")
        self.send_response_only(self._status, "Partial Content" if part else answer.reason)
        chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
        for name, value in answer.headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if chunked:  # its end is shown by closing
            self.send_header("Connection", "close")
        self.end_headers()
        first = True
        while chunk := answer.read1(_CHUNK):
            chunk = fault.change_answer(chunk) if fault.change_answer and first else chunk
            first = False
            if fault.cut_answer is not None and self._received + len(chunk) >= fault.cut_answer:
                self._give(chunk[: fault.cut_answer - self._received])
                self.wfile.flush()
                raise _BrokenError
            self._give(chunk)

    def _give(self, data: bytes) -> None:
        self.wfile.write(data)
        self._received += len(data)
