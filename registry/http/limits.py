"""The limits of one request, bytes, depth, time and concurrency, and the middleware that refuses what exceeds them."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, replace
from typing import Final

from registry.errors import RegistryError, UnavailableError, UsageError
from registry.http.context import App, Message, Receive, RequestContext, Scope, Send, context_of, header
from registry.http.errors import problem, problem_response
from registry.schemas.protocol import VIEWS

MIB: Final = 1 << 20
_PART: Final = re.compile(r"/[^/]+/[^/]+/[^/]+\.git/info/lfs/parts/[^/]+/[^/]+")
_COMMIT: Final = re.compile(r"/[^/]+/api/models/[^/]+/[^/]+/commit/")


@dataclass(frozen=True)
class Limits:
    """Limits of requests; sizes in bytes, times in seconds."""

    document: int = MIB  # a JSON body
    claims: int = 64 * MIB  # a plan or a commit: it carries the headers of all weight files
    push: int = 360 * MIB  # a commit of a Hub client: files of 256 MiB in base64, and their descriptions
    part: int = 5 << 30  # a part of an upload; its exact length is checked by the route
    depth: int = 64  # of JSON
    headers: int = 64
    header_bytes: int = 32 << 10
    query: int = 8 << 10
    head_time: float = 15.0  # until the last byte of the headers came
    body_grace: float = 20.0  # a body may take this long, and longer at `body_rate` bytes a second
    body_rate: float = 64 << 10
    answer_time: float = 60.0  # until the first byte of the answer
    plan_time: float = 600.0  # the same where ranks are found while planning, or bytes are read back
    stall_time: float = 60.0  # a client that reads less than a MiB in this time is disconnected
    threads: int = 32  # worker threads of requests
    bodies: int = 32  # bodies copied from the store at the same time
    parts: int = 32  # parts of uploads stored at the same time
    computed: int = 4  # bodies computed at the same time
    queue: int = 64  # computed bodies that wait for a slot
    queue_time: float = 8.0  # wait for a slot; Hub clients time out after 10 s without a byte
    thread_queue_time: float = 20.0  # the same of a base model, a truncation or a look
    denials: int = 300  # that are recorded at once; as many again in half a minute
    denials_of_one: int = 30  # the same of one token or address
    streams: int = 256  # of events, open at the same time
    streams_of_one: int = 64  # the same of one token or address
    jobs: int = 2  # that run at the same time
    stop_time: float = 30.0  # graceful shutdown

    @property
    def head(self) -> int:
        """Bytes before the body."""
        return self.header_bytes + self.query + (16 << 10)

    def divided(self, workers: int) -> Limits:
        """The share of one of so many workers: what is refused or waits beyond a number, but at least one of each.

        Of slots and queues it may have more while others have less: see `registry.http.admission.Share`.
        """
        parts = (
            "bodies",
            "parts",
            "computed",
            "queue",
            "denials",
            "denials_of_one",
            "streams",
            "streams_of_one",
            "jobs",
        )
        return replace(self, **{name: max(1, getattr(self, name) // workers) for name in parts})

    def body_time(self, received: int) -> float:
        """How long a body may take of which this many bytes have arrived."""
        return self.body_grace + received / self.body_rate


def largest_body(limits: Limits, method: str, path: str) -> int:
    """The largest body of a route, by its address."""
    if method not in {"POST", "PUT"} | ({"DELETE", "PATCH"} if is_below_view(path) else set()):
        return 0
    if path.startswith("/api/v1/uploads/") or is_part(path):
        return limits.part
    if is_commit(path):
        return limits.push
    if path.startswith(("/api/v1/publishes", "/api/v1/bases", "/api/v1/parents")):
        return limits.claims
    return limits.document


def is_below_view(path: str) -> bool:
    """Whether an address belongs to a Hub-compatible view, whose clients expect the Hub's error format."""
    return path.removeprefix("/").partition("/")[0] in VIEWS


def is_commit(path: str) -> bool:
    """Whether an address is that of a commit of a Hub client."""
    return is_below_view(path) and _COMMIT.match(path) is not None


def is_part(path: str) -> bool:
    """Whether an address is that of a part which a Hub client sends by LFS."""
    return is_below_view(path) and _PART.fullmatch(path) is not None


def time_to_answer(limits: Limits, path: str) -> float:
    """How long a route may take until its response begins."""
    parts = (
        *("publishes", "bases", "uploads", "artifacts", "parents", "statistics", "checks", "diff", "rebases"),
        "combinations",
        *("gc", "fsck"),
    )
    pages = ("/compare", "/matrix", "/figures", "/admin/storage", "/rebase", "/measure")
    slow = (*(f"/api/v1/{part}" for part in parts), *pages)
    return limits.plan_time if path.startswith(slow) or is_commit(path) else limits.answer_time


_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_ONCE: Final = frozenset(
    {b"authorization", b"content-length", b"content-type", b"host", b"if-range", b"range", b"transfer-encoding"}
)
_LINGER_TIME: Final = 1.0  # seconds
_LINGER_BYTES: Final = 8 << 20


class ClientGoneError(Exception):
    """The client disconnected while its body was read."""


class BoundsMiddleware:
    """Limits the headers, the query and the body of every request."""

    def __init__(self, app: App, *, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, self._limits)
        refused = self._head(scope) or body.refused()
        if refused is not None:
            await _refuse(scope, body, send, refused)
            return
        gate = _ResponseGate(body, send)
        try:
            await self._app(scope, body.receive, gate.send)
        except ClientGoneError:
            return

    def _head(self, scope: Scope) -> RegistryError | None:
        limits, headers = self._limits, scope["headers"]
        if len(headers) > limits.headers:
            return _too_large(f"The request has {len(headers)} headers, at most {limits.headers} are accepted.")
        size = sum(len(name) + len(value) for name, value in headers)
        if size > limits.header_bytes:
            return _too_large(f"The headers have {size} bytes, at most {limits.header_bytes} are accepted.")
        once = [name for name, _ in headers if name in _ONCE]
        if len(once) > len(set(once)):
            # Proxies and logs may pick another one of them.
            twice = next(name for name in once if once.count(name) > 1)
            return UsageError(
                f"The header {twice.decode('ascii').title()} is given {once.count(twice)} times, once is expected."
            )
        query = len(scope["query_string"])
        if query > limits.query:
            return _too_large(f"The query has {query} bytes, at most {limits.query} are accepted.")
        return None


class _Body:
    """The request body as it arrives."""

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self._context: RequestContext = context_of(scope)
        self._receive = receive
        self._limits = limits
        self._most = largest_body(limits, scope["method"], scope["path"])
        self._length = header(scope, b"content-length")
        self._chunked = header(scope, b"transfer-encoding") is not None
        self._begun: float | None = None
        self.complete = self._length in {None, b"0"} and not self._chunked
        self._note()

    def _note(self) -> None:
        if self.complete:
            self._context.complete = time.perf_counter()

    def refused(self) -> RegistryError | None:
        """Why the headers rule the body out."""
        if self._length is not None and _LENGTH.fullmatch(self._length) is None:
            return UsageError(f"The header Content-Length is {self._length[:32]!r}, a number is expected.")
        if self._length is not None and int(self._length) > self._most:
            return self._too_long(int(self._length))
        return None

    async def receive(self) -> Message:
        """The next ASGI message."""
        if self.complete:
            return await self._receive()
        if self._begun is None:
            self._begun = time.monotonic()
        left = self._begun + self._limits.body_time(self._context.received) - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError:
            raise self._too_slow() from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self._context.received += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        self._note()
        if self._context.received > self._most:
            raise self._too_long(self._context.received)
        return message

    async def linger(self) -> None:
        """Drain a refused body for a moment (lingering close): a client that still sends reads no response."""
        end, count = time.monotonic() + _LINGER_TIME, 0
        while not self.complete and count < _LINGER_BYTES:
            try:
                message = await asyncio.wait_for(self._receive(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                return
            count += len(message.get("body", b""))
            self.complete = message["type"] == "http.disconnect" or not message.get("more_body", False)

    def _too_long(self, found: int) -> RegistryError:
        return _too_large(f"The body has {found} bytes or more, at most {self._most} are accepted here.")

    def _too_slow(self) -> RegistryError:
        return UnavailableError(
            f"The body was sent too slowly: {self._context.received} bytes in "
            f"{self._limits.body_time(self._context.received):g} seconds; send it again in smaller parts.",
            code="too_slow",
        )


class _ResponseGate:
    """Closes the connection after a response that did not wait for the request body, after a lingering read."""

    def __init__(self, body: _Body, send: Send) -> None:
        self._body = body
        self._send = send
        self._lingers = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._lingers = not self._body.complete
            if self._lingers:
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        elif self._lingers and not message.get("more_body", False):
            self._lingers = False
            await self._send({**message, "more_body": True})
            await self._body.linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)


async def _refuse(scope: Scope, body: _Body, send: Send, error: RegistryError) -> None:
    response = problem_response(problem(error, context_of(scope).request))
    await response(scope, body.receive, _ResponseGate(body, send).send)


def _too_large(sentence: str) -> UnavailableError:
    return UnavailableError(sentence, code="too_large")
