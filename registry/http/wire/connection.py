"""A connection of the web server: with a header timeout, and abortable."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from registry.errors import RegistryError, UnavailableError, UsageError
from registry.http.request.context import ABORT, KEY, SOCKET_WRITER, Scope, context_of
from registry.http.request.errors import headers_of, problem
from registry.http.request.limits import Limits
from registry.http.wire.socket_writer import SocketWriter
from registry.http.wire.strict import StrictConnection
from registry.schemas.protocol import PROTOCOL, PROTOCOL_HEADER, VERSION_HEADER
from registry.version import __version__


def connection_class(limits: Limits) -> type[H11Protocol]:
    """The connection class with these limits."""

    class BoundedConnection(Connection):
        bounds = limits

    return BoundedConnection


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a header timeout, and problem documents for malformed requests."""

    bounds = Limits()

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.conn = StrictConnection(self.bounds.head)
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.scope is not None:
            self.scope[ABORT] = self.abort  # type: ignore[typeddict-unknown-key]
            self.scope[SOCKET_WRITER] = SocketWriter(self)  # type: ignore[typeddict-unknown-key]
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._expect_head()
        elif self.conn.their_state is not h11.IDLE:
            self._head_is_there()

    def abort(self) -> None:
        """Reset the connection: the kernel would keep unsent bytes for a client that reads nothing for days."""
        if not self.transport.is_closing():
            own = self.transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        error = sys.exc_info()[1]
        hint = getattr(error, "error_status_hint", 400)
        if hint == 431:
            self._send_problem(UnavailableError("The headers of the request are too large.", code="too_large"))
        else:
            self._send_problem(UsageError(f"The request is not valid HTTP: {error or msg}."))

    def _expect_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self.bounds.head_time, self._head_is_late)

    def _head_is_there(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0] and self.conn.our_state is h11.IDLE:
            sentence = f"The headers did not arrive within {self.bounds.head_time:g} seconds."
            self._send_problem(UnavailableError(sentence, code="too_slow"))
        else:
            self.transport.close()

    def _send_problem(self, error: RegistryError) -> None:
        """Respond in place of the app, which sees a disconnect, and close the connection."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        told = problem(error)
        if cycle is not None and not cycle.response_complete:
            if KEY in cycle.scope:
                context_of(cast("Scope", cycle.scope)).breaks(told.status)
            cycle.disconnected = True
            cycle.message_event.set()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:  # a response has begun: abort it
            self.transport.close()
            return
        body = told.model_dump_json().encode()
        headers = {
            **headers_of(told),
            "Content-Type": "application/problem+json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            VERSION_HEADER: __version__,
            PROTOCOL_HEADER: str(PROTOCOL),
        }
        # An h11 connection whose client broke the protocol can still answer.
        response = h11.Response(status_code=told.status, headers=[(k.encode(), v.encode()) for k, v in headers.items()])
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
