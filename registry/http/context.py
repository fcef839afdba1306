"""Request context: what log, metrics and problem documents need to know of a request under way."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
KEY: Final = "registry.exchange"
ABORT: Final = "registry.abort"  # a function that aborts the connection
SOCKET_WRITER: Final = "registry.outlet"  # see `registry.http.connection`
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{8,64}")


@dataclass
class RequestContext:
    """One request and its response."""

    request: str  # id
    started: float = field(default_factory=time.perf_counter)
    token: str | None = None  # id of the token
    by_session: bool = False  # whether somebody asks who is signed in at the pages: browsers keep no such answer
    received: int = 0  # bytes of the body
    complete: float | None = None  # when the body was complete, on the clock of `started`
    sent: int = 0
    status: int | None = None
    broken: int | None = None  # in place of the status, if the connection broke before the response was complete
    kind: str | None = None  # of a body of bytes: blob, artifact, part

    def breaks(self, status: int) -> None:
        """Note why the connection is broken off: what a log and metrics say, since the client got no whole response."""
        self.broken = self.broken or status

    @property
    def milliseconds(self) -> float:
        """Elapsed time."""
        return (time.perf_counter() - self.started) * 1000


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of a lower-case name."""
    return next((value for key, value in scope["headers"] if key == name), None)


def begin_context(scope: Scope) -> RequestContext:
    """Create the context of a request; a well-formed ``X-Request-Id`` is retained."""
    given = header(scope, b"x-request-id")
    known = given is not None and _REQUEST_ID.fullmatch(given) is not None
    context = RequestContext(given.decode() if given is not None and known else os.urandom(16).hex())
    scope[KEY] = context
    return context


def context_of(scope: Scope) -> RequestContext:
    """The context of a request."""
    found: RequestContext = scope[KEY]
    return found


def source_of(scope: Scope) -> str | None:
    """The address of the client; ``X-Forwarded-For`` counts for trusted proxies only (`uvicorn` applies it)."""
    client = scope.get("client")
    return str(client[0]) if client else None


def route_of(scope: Scope) -> str:
    """The template of the matched route; ``none`` without one."""
    return getattr(scope.get("route"), "path_format", None) or "none"
