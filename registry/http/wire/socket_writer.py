"""Writes bodies to the socket from worker threads, beside the event loop, without a copy.

The head of a response goes through `h11` and the transport. Once the transport has sent it, the bytes of the body go to
the socket itself, and `h11` is told their number (as for `sendfile`). The server speaks no TLS.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final, cast

import h11

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

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
