"""The way of a body to its client beside the event loop: sent by the thread that makes it, without a copy.

The head of an answer goes through `h11` and the transport as usual. Once the transport has sent it, the bytes of the
body go to the socket itself, and `h11` is told how many there were (its way for `sendfile`). The server speaks no TLS.
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
_PATIENCE: Final = 200  # milliseconds that a thread waits for a client that took something just now
_SOON: Final = 0.001  # seconds until the transport is looked at again, at first and at most
_LATER: Final = 0.1


class _Length:
    """Stands for bytes that were sent by another way; `h11` asks for their number only."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class Outlet:
    """The socket of one connection, while it sends one body."""

    def __init__(self, connection: H11Protocol) -> None:
        self._connection = connection
        self._socket: socket.socket | None = None

    async def drained(self, timeout: float) -> bool:
        """Wait until the transport has sent what it has; False if the client does not take that in time.

        Raises:
            ConnectionError: the client is gone.
        """
        transport, over, pause = self._connection.transport, time.monotonic() + timeout, _SOON
        while transport.get_write_buffer_size() and not transport.is_closing():
            if time.monotonic() > over:
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LATER)
        if transport.is_closing():
            raise ConnectionResetError
        return True

    async def open(self, timeout: float) -> bool:
        """Take the socket over from the transport, once that is drained; False if it is not in time.

        Raises:
            ConnectionError: the client is gone.
        """
        if not await self.drained(timeout):
            return False
        self._socket = self._connection.transport.get_extra_info("socket").dup()
        self._socket.setblocking(False)
        return True

    def push(self, data: memoryview) -> int:
        """Send what the client takes of some bytes, in a thread; waits a moment for it. Returns how many.

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
                if not waits.poll(_PATIENCE):
                    break
        return done

    async def writable(self, timeout: float) -> bool:
        """Wait until the client takes more; False if it does not in time."""
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
        """All of the body, so many bytes, is out. A client that has them may have closed the connection already."""
        if self._connection.conn.our_state is h11.ERROR:
            return
        self._connection.conn.send_with_data_passthrough(h11.Data(data=cast("Any", _Length(sent))))

    def close(self) -> None:
        """Give the socket back to the transport; twice is once."""
        own, self._socket = self._socket, None
        if own is not None:
            own.close()

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise AssertionError("the outlet was opened before it is used")
        return self._socket
