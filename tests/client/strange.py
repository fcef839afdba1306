"""Servers that are no registry, or a bad one: each connection gets the bytes that a test wrote down."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx

PROTOCOL = "X-Registry-Version: 9.9.9\r\nX-Registry-Protocol: 4\r\n"

Script = Callable[["Request"], bytes | None]
"""The bytes to answer with; the connection is closed after them. None: no answer, as long as the test lasts."""


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    number: int  # counted from 1
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class StrangeServer:
    """A scripted server on a loopback port."""

    url: str
    requests: list[Request] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        return [request.line for request in self.requests]


def response(status: str, body: bytes = b"", *headers: str, ours: bool = True, length: int | None = None) -> bytes:
    """An HTTP response, which says ``length`` and closes after what it has."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", "Connection: close"]
    head = "\r\n".join([*lines, *headers]) + "\r\n" + (PROTOCOL if ours else "")
    return head.encode() + b"\r\n" + body


def relayed(request: Request, server: str) -> bytes:
    """What the server at an address answers to a request, as a proxy before it would pass it on."""
    method, target, _ = request.line.split(" ")
    url = server + target
    headers = {name: value for name, value in request.headers.items() if name not in ("host", "connection")}
    answer = httpx.request(method, url, headers=headers, content=request.body, trust_env=False)
    kept = {name: value for name, value in answer.headers.items() if name not in ("content-length", "connection")}
    said = [f"{name}: {value}" for name, value in kept.items()]
    return response(f"{answer.status_code} {answer.reason_phrase}", answer.content, *said, ours=False)


def problem(status: str, *, kind: str, code: str, detail: str, headers: tuple[str, ...] = ()) -> bytes:
    """A problem as the service sends it."""
    from registry.schemas.protocol import Problem

    number = int(status.split(maxsplit=1)[0])
    document = Problem(
        type=f"urn:adapter-registry:error:{code}", title=code, status=number, detail=detail, code=code, kind=kind
    )
    body = document.model_dump_json().encode()
    return response(status, body, "Content-Type: application/problem+json", *headers)


@contextmanager
def strange_server(script: Script) -> Iterator[StrangeServer]:
    """A server that answers by a script."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = StrangeServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
    over = threading.Event()
    lock = threading.Lock()

    def serve(connection: socket.socket) -> None:
        with connection:
            request = None
            with suppress(OSError):  # a client may leave whenever it has what it wants, or sees what it can't read
                request = _read(connection, server, lock)
            if request is None:
                return
            answer = script(request)
            if answer is None:
                over.wait()
                return
            with suppress(OSError):
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(10)
                while connection.recv(65536):
                    pass

    def accept() -> None:
        threads = []
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                break
            threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield server
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()


def _read(connection: socket.socket, server: StrangeServer, lock: threading.Lock) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
        if data.startswith(b"\x16"):  # a TLS handshake, to a server that knows of none
            return Request(0, "", {}, b"")
    head, _, body = data.partition(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
    while len(body) < int(headers.get("content-length", "0")):
        more = connection.recv(65536)
        if not more:
            break
        body += more
    with lock:
        request = Request(len(server.requests) + 1, line, headers, body)
        server.requests.append(request)
    return request
