"""A connection of the web server: strict parsing, a timeout of headers, and bodies written from worker threads.

All that reaches into uvicorn and h11 is in this module. `h11` is lenient, and a proxy in front of the service may frame
the same bytes differently, so ambiguous framing is refused, against request smuggling (RFC 9112). The head of a
response goes through `h11` and the transport. Once the transport has sent it, the bytes of a body go to the socket
itself without a copy, and `h11` gets their number (as for `sendfile`). The server speaks no TLS.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import struct
import sys
import time
from typing import Any, Final, cast

import h11
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from registry.errors import RegistryError, UnavailableError, UsageError
from registry.http.context import ABORT, KEY, SOCKET_WRITER, Scope, context_of
from registry.http.errors import headers_of, problem
from registry.http.limits import Limits
from registry.schemas.protocol import PROTOCOL, PROTOCOL_HEADER, VERSION_HEADER
from registry.version import __version__

_AT_ONCE: Final = 4 << 20
_SEND_WAIT: Final = 200  # milliseconds that a thread waits for an active client
_SOON: Final = 0.001  # polling interval of the transport in seconds, after a first turn of the loop, and longest
_LATER: Final = 0.1


class _Length:
    """Stands for bytes sent outside of `h11`, which needs their number only."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class SocketWriter:
    """The socket of one connection, while it sends one body."""

    def __init__(self, connection: H11Protocol) -> None:
        self._connection = connection
        self._socket: socket.socket | None = None

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, so that nobody reads what is sent."""
        return self._connection.transport.is_closing()

    async def drained(self, timeout: float) -> bool:
        """Wait until the transport's buffer is empty; False on timeout.

        Raises:
            ConnectionError: the client is gone.
        """
        transport, over, pause = self._connection.transport, time.monotonic() + timeout, 0.0
        while transport.get_write_buffer_size() and not transport.is_closing():
            if time.monotonic() > over:
                return False
            await asyncio.sleep(pause)
            pause = min(max(2 * pause, _SOON), _LATER)
        if transport.is_closing():
            raise ConnectionResetError
        return True

    async def open(self, timeout: float) -> bool:
        """Take the socket over from the transport once that is drained; False on timeout.

        Raises:
            ConnectionError: the client is gone.
        """
        if not await self.drained(timeout):
            return False
        self._socket = self._connection.transport.get_extra_info("socket").dup()
        self._socket.setblocking(False)
        return True

    def push(self, data: memoryview) -> int:
        """Send what the client accepts, with a short wait, in a worker thread. Returns the number of bytes.

        Raises:
            ConnectionError: the client is gone.
        """
        own = self._open()
        done = 0
        waits = select.poll()
        waits.register(own, select.POLLOUT)
        while done < len(data):
            try:
                done += own.send(data[done : done + _AT_ONCE])
            except BlockingIOError:
                if not waits.poll(_SEND_WAIT):
                    break
        return done

    async def writable(self, timeout: float) -> bool:
        """Wait until the socket is writable; False on timeout."""
        loop, own, ready = asyncio.get_running_loop(), self._open(), asyncio.Event()
        loop.add_writer(own, ready.set)
        try:
            await asyncio.wait_for(ready.wait(), timeout)
        except TimeoutError:
            return False
        finally:
            loop.remove_writer(own)
        return True

    def finish(self, sent: int) -> None:
        """All bytes of the body are sent. The client may have closed the connection already."""
        if self._connection.conn.our_state is h11.ERROR:
            return
        self._connection.conn.send_with_data_passthrough(h11.Data(data=cast("Any", _Length(sent))))

    def close(self) -> None:
        """Give the socket back to the transport. Idempotent."""
        own, self._socket = self._socket, None
        if own is not None:
            own.close()

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise AssertionError("the outlet was opened before it is used")
        return self._socket


# Lines end with CR LF and nothing else, are never continued, and hold no control characters but a tab.
_NO_LINE: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\r\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"content-length:[ \t]*(.*?)[ \t]*", re.IGNORECASE)
_WHY: Final = {
    b"\n": "a line ends with a bare LF",
    b"\r": "a line holds a bare CR",
    b"\r\n ": "a header is continued on a second line",
    b"\r\n\t": "a header is continued on a second line",
}


class StrictConnection(h11.Connection):
    """The server's end of a connection."""

    def __init__(self, most: int) -> None:
        super().__init__(h11.SERVER, most)
        self._receive_buffer = _StrictBuffer()

    def next_event(self) -> Any:
        """The next event; see `h11.Connection.next_event`.

        Raises:
            h11.RemoteProtocolError: the client gets 400, and the connection is closed.
        """
        event = super().next_event()
        why = _why_ambiguous(event) if isinstance(event, h11.Request) else None
        if why is not None:
            self._process_error(self.their_role)
            raise h11.RemoteProtocolError(why)
        return event


def _why_ambiguous(request: h11.Request) -> str | None:
    """Why a head can be framed in two ways."""
    names = {name for name, _ in request.headers}
    if not request.http_version.startswith(b"1."):
        return f"it is in HTTP/{request.http_version.decode('ascii')}, which is not supported here"
    if b"transfer-encoding" not in names:
        return None
    if b"content-length" in names:
        return "it has both Content-Length and Transfer-Encoding"
    return "it has Transfer-Encoding, which HTTP/1.0 does not know" if request.http_version == b"1.0" else None


class _StrictBuffer(ReceiveBuffer):
    """The receive buffer, split into lines strictly. Its errors reach the client through `h11`."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        if self._data[:2] == b"\r\n":
            self._extract(2)
            return []
        searched = max(0, self._multiple_lines_search - len(_END))
        end = self._data.find(_END, searched)
        known = len(self._data) if end == -1 else end + len(_END)
        _refuse_what_is_no_line(self._data, searched, known)
        if end == -1:
            self._multiple_lines_search = known
            return None
        lines = self._extract(known)[: -len(_END)].split(b"\r\n")
        _refuse_several_lengths(lines)
        return lines

    def maybe_extract_next_line(self) -> bytearray | None:
        searched, end = max(0, self._next_line_search - 1), self._data.find(b"\r\n")
        _refuse_what_is_no_line(self._data, searched, len(self._data) if end == -1 else end + 2)
        line = super().maybe_extract_next_line()
        if line is not None and line[:-2].endswith((b" ", b"\t")):
            raise h11.LocalProtocolError("a chunk's size is followed by blanks")
        return line


def _refuse_what_is_no_line(data: bytearray, start: int, stop: int) -> None:
    found = _NO_LINE.search(data, start, stop)
    if found is not None:
        raise h11.LocalProtocolError(_WHY.get(bytes(found[0]), f"it holds the control character 0x{found[0].hex()}"))


def _refuse_several_lengths(lines: list[bytearray]) -> None:
    lengths = [match[1] for line in lines if (match := _LENGTH.fullmatch(line))]
    if len(lengths) > 1 or any(not length.isdigit() for length in lengths):
        raise h11.LocalProtocolError("Content-Length is not one number")


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
