"""What is known of a request and its answer while they are under way: for the log, the metrics and the problems."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

Scope = MutableMapping[str, Any]
KEY: Final = "registry.exchange"
ABORT: Final = "registry.abort"  # where the server lets a connection be cut: a function
OUTLET: Final = "registry.outlet"  # where bytes of a body leave: see `registry.http.outlet`
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{8,64}")


@dataclass
class Exchange:
    """One request and its answer."""

    request: str  # id
    started: float = field(default_factory=time.perf_counter)
    token: str | None = None  # id of the token
    received: int = 0  # bytes of the body
    complete: float | None = None  # when all of the body was there, on the clock of `started`
    sent: int = 0
    status: int | None = None
    kind: str | None = None  # of a body of bytes: blob, artifact, part

    @property
    def milliseconds(self) -> float:
        """Since the request came."""
        return (time.perf_counter() - self.started) * 1000


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of a lower-case name."""
    return next((value for key, value in scope["headers"] if key == name), None)


def begin(scope: Scope) -> Exchange:
    """Begin the exchange of a request; its id is that of the header where it is well formed."""
    given = header(scope, b"x-request-id")
    known = given is not None and _REQUEST_ID.fullmatch(given) is not None
    exchange = Exchange(given.decode() if given is not None and known else uuid.uuid4().hex)
    scope[KEY] = exchange
    return exchange


def exchange_of(scope: Scope) -> Exchange:
    """The exchange of a request."""
    found: Exchange = scope[KEY]
    return found


def source_of(scope: Scope) -> str | None:
    """The address of the client, as the server found it: `uvicorn` believes proxies that a setting names, no other."""
    client = scope.get("client")
    return str(client[0]) if client else None


def route_of(scope: Scope) -> str:
    """The template of the route that took the request; ``none`` where none did."""
    return getattr(scope.get("route"), "path_format", None) or "none"
