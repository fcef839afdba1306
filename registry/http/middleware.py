"""The outermost middleware: request id, response timeout, metrics, and the request log as JSON lines.

Pure ASGI, because it counts bytes as they pass and must not touch the body.

Structured logging: one JSON object a line on stderr.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from registry.errors import RegistryError, UnavailableError
from registry.http.context import (
    SOCKET_WRITER,
    App,
    Message,
    Receive,
    RequestContext,
    Scope,
    Send,
    begin_context,
    route_of,
    source_of,
)
from registry.http.errors import CLIENT_GONE, STATUSES, problem, problem_response, status_of, unexpected
from registry.http.limits import Limits, time_to_answer
from registry.http.metrics import Metrics
from registry.schemas.protocol import PROTOCOL, PROTOCOL_HEADER, VERSION_HEADER
from registry.version import __version__

_REQUESTS: Final = logging.getLogger("registry.requests")
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, default=str).encode  # made once: `dumps` makes one for each line
_KNOWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record with its extra fields as one line; with the number of the worker, if there are several."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._worker,
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _KNOWN}
        if record.exc_info is not None and record.exc_info[1] is not None:
            line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return _ENCODE(line)


def log_request(fields: Mapping[str, object]) -> None:
    """Write the line of a request."""
    if _REQUESTS.isEnabledFor(logging.INFO):  # without looking for the caller, which is known
        _REQUESTS.handle(
            _REQUESTS.makeRecord(_REQUESTS.name, logging.INFO, __file__, 0, "request", (), None, extra=fields)
        )


def log_to_stderr(worker: int | None = None) -> None:
    """Log to stderr, with the number of a worker; uvicorn's access log is off, since the request log has more."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(worker))
    for name in {"registry", __name__.partition(".")[0]}:  # the package may have been imported as `adapter_registry`
        own = logging.getLogger(name)
        own.handlers, own.propagate = [handler], False
        own.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)


log = logging.getLogger(__name__)


class ResponseAbortedError(Exception):
    """A started response can't be finished: the connection is aborted, so that it does not look complete.

    ``status`` is what log and metrics say.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class RequestMiddleware:
    """Wraps the whole app."""

    def __init__(self, app: App, *, limits: Limits, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = begin_context(scope)
        answer = _Response(scope, context, send, time_to_answer(self._limits, scope["path"]))
        try:
            await self._app(scope, answer.hears(receive), answer.send)
        except ResponseAbortedError as error:
            context.breaks(error.status)
            log.warning("%s", error, extra={"request": context.request})
        except Exception as error:
            log.error("unexpected error", exc_info=error, extra={"request": context.request, "route": route_of(scope)})
            await answer.send_problem(unexpected())
            context.breaks(status_of(unexpected()))
        finally:
            await answer.finish()
            self._note(scope, context)

    def _note(self, scope: Scope, context: RequestContext) -> None:
        route = route_of(scope)
        self._metrics.note(scope["method"], route, context)
        log_request(
            {
                "request": context.request,
                "method": scope["method"],
                "route": route,
                "status": context.status,
                "ms": round(context.milliseconds, 2),
                "received": context.received,
                "sent": context.sent,
                "token": context.token,
                "source": source_of(scope),
            },
        )


class _Response:
    """The response of a request: common headers, and a timeout response if the app does not begin in time."""

    def __init__(self, scope: Scope, context: RequestContext, send: Send, timeout: float) -> None:
        self._scope = scope
        self._context = context
        self._send = send
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(timeout, self._check_deadline)
        self._given_up: asyncio.Task[None] | None = None
        self._complete = False

    def hears(self, receive: Receive) -> Receive:
        """ASGI receive of the app; a client that hangs up before its response is complete is noted."""

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not self._complete:
                self._context.breaks(CLIENT_GONE)
            return message

        return heard

    async def send(self, message: Message) -> None:
        """ASGI send of the app; raises once the timeout response was sent, so that the app stops."""
        if self._given_up is not None:
            raise ResponseAbortedError(
                "A response was too late: the client was told to retry.", STATUSES[UnavailableError]
            )
        await self._forward(message)

    async def send_problem(self, error: RegistryError) -> None:
        """Respond with a problem, unless a response has begun."""
        if self._context.status is None:
            response = problem_response(problem(error, self._context.request))
            await response(self._scope, _nothing, self._forward)

    def _check_deadline(self) -> None:
        """Respond in place of the app, whose thread runs to its end; the time to receive the body does not count."""
        begun = self._context.complete
        left = self._timeout - (0.0 if begun is None else time.perf_counter() - begun)
        if left > 0:
            self._deadline = self._loop.call_later(left, self._check_deadline)
            return
        sentence = f"The service did not answer within {self._timeout:g} seconds: try again when it is less busy."
        self._given_up = self._loop.create_task(self.send_problem(UnavailableError(sentence)))

    async def finish(self) -> None:
        """Wait for the timeout response; then the status is what came of the request."""
        self._deadline.cancel()
        if self._given_up is not None:
            await self._given_up
        if not self._complete:
            self._context.status = self._context.broken or self._context.status

    async def _forward(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if SOCKET_WRITER in self._scope and self._scope[SOCKET_WRITER].closed:
                self._context.breaks(CLIENT_GONE)
            if self._context.broken is not None:
                return  # the server sends it to nobody
            self._context.status = message["status"]
            self._deadline.cancel()
            message = {**message, "headers": [*self._kept(message.get("headers", [])), *self._headers()]}
        elif message["type"] == "http.response.body":
            if self._context.status is None:
                return
            if self._scope["method"] != "HEAD":  # whose body stays here
                self._context.sent += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        await self._send(message)

    def _kept(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """The app's own: what a session saw is not cached by the browser, which would show it after it signed out."""
        for name, value in headers:
            yield (name, b"no-store" if self._context.by_session and name.lower() == b"cache-control" else value)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (VERSION_HEADER.lower().encode(), __version__.encode()),
            (PROTOCOL_HEADER.lower().encode(), str(PROTOCOL).encode()),
            (b"x-request-id", self._context.request.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
