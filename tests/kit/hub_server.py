"""What the small Hubs of the tests share: a server on a loopback port, and the forms of its answers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, Self, TypeVar


class HubServer:
    """A Hub that runs while it is entered."""

    def __init__(self, answers: type[HubAnswers[Any]]) -> None:
        self.seen: list[str] = []  # "METHOD path"
        self._http = _Server(("127.0.0.1", 0), answers)
        self._http.hub = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name=type(self).__name__)

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/hub"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Any

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break, and clients that are killed, are what this is for."""


Hub = TypeVar("Hub", bound=HubServer)


class HubAnswers(BaseHTTPRequestHandler, Generic[Hub]):
    """How a Hub answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    @property
    def hub(self) -> Hub:
        """The Hub that answers."""
        hub: Hub = self.server.hub
        return hub

    def _json(self, document: object, status: int = 200) -> None:
        self._send(status, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def _error(self, status: int, code: str, message: str, more: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, {"X-Error-Code": code, "X-Error-Message": message, **(more or {})}, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes, *, half: bool = False) -> None:
        """``half``: the body breaks off in its middle."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if half else body)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silence: tests look at `HubServer.seen`."""
