"""The outermost room: every request gets an id, an answer in time, a line in the log, and its place in the metrics.

Pure ASGI, because it must see the bytes as they pass and must not touch the body.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from registry.errors import RegistryError, UnavailableError
from registry.http.exchange import Exchange, Scope, begin, route_of, source_of
from registry.http.limits import Limits, time_to_answer
from registry.http.metrics import Metrics
from registry.http.problems import problem, problem_response, unexpected
from registry.version import __version__
from registry.wire import PROTOCOL, PROTOCOL_HEADER, VERSION_HEADER

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)
requests = logging.getLogger("registry.requests")


class CutError(Exception):
    """An answer that began can't be finished: the connection is broken, so that nobody takes it for whole."""


class Envelope:
    """Wraps the whole app."""

    def __init__(self, app: App, *, limits: Limits, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = begin(scope)
        answer = _Answer(scope, exchange, send, time_to_answer(self._limits, scope["path"]))
        try:
            await self._app(scope, receive, answer.send)
        except CutError as error:
            log.warning("%s", error, extra={"request": exchange.request})
        except Exception as error:
            log.error("unexpected error", exc_info=error, extra={"request": exchange.request, "route": route_of(scope)})
            await answer.tell(unexpected())
        finally:
            await answer.finish()
            self._note(scope, exchange)

    def _note(self, scope: Scope, exchange: Exchange) -> None:
        route = route_of(scope)
        self._metrics.note(scope["method"], route, exchange)
        requests.info(
            "request",
            extra={
                "request": exchange.request,
                "method": scope["method"],
                "route": route,
                "status": exchange.status,
                "ms": round(exchange.milliseconds, 2),
                "received": exchange.received,
                "sent": exchange.sent,
                "token": exchange.token,
                "source": source_of(scope),
            },
        )


class _Answer:
    """The way out: headers of every answer, and an answer by the service itself when the app gives none in time."""

    def __init__(self, scope: Scope, exchange: Exchange, send: Send, patience: float) -> None:
        self._scope = scope
        self._exchange = exchange
        self._send = send
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(patience, self._look)
        self._given_up: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> None:
        """What the app sends; once it was given up, it is told so, because it may have much more to send."""
        if self._given_up is not None:
            raise CutError("An answer came too late: the client was told to try again.")
        await self._pass_on(message)

    async def tell(self, error: RegistryError) -> None:
        """Answer with a problem, if no answer has begun."""
        if self._exchange.status is None:
            response = problem_response(problem(error, self._exchange.request))
            await response(self._scope, _nothing, self._pass_on)

    def _look(self) -> None:
        """Answer in place of the app, whose thread works on until it ends; the time of the body is not its time."""
        begun = self._exchange.complete
        left = self._patience - (0.0 if begun is None else time.perf_counter() - begun)
        if left > 0:
            self._deadline = self._loop.call_later(left, self._look)
            return
        sentence = f"The service did not answer within {self._patience:g} seconds: try again, when it has less to do."
        self._given_up = self._loop.create_task(self.tell(UnavailableError(sentence)))

    async def finish(self) -> None:
        """Wait until what this room sends itself is sent."""
        self._deadline.cancel()
        if self._given_up is not None:
            await self._given_up

    async def _pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._exchange.status = message["status"]
            self._deadline.cancel()
            message = {**message, "headers": [*message.get("headers", []), *self._headers()]}
        elif message["type"] == "http.response.body" and self._scope["method"] != "HEAD":  # whose body stays here
            self._exchange.sent += len(message.get("body", b""))
        await self._send(message)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (VERSION_HEADER.lower().encode(), __version__.encode()),
            (PROTOCOL_HEADER.lower().encode(), str(PROTOCOL).encode()),
            (b"x-request-id", self._exchange.request.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
