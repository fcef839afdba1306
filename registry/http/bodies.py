"""Responses with files: exact sizes, ETags, ranges, and bodies produced in worker threads while they are sent.

Only the blobs stay open while a body is sent: no session, no lock, no database connection. The first piece is made
before the response begins, so that an error in it is still a problem document; a later error aborts the connection,
because a truncated body must not look complete. Threads work on a body in slices of time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message as _Headers
from functools import partial
from typing import Any, Final, Literal, TypeVar

import anyio
from anyio import CapacityLimiter
from fastapi import Request, Response

from registry.errors import RegistryError, UsageError
from registry.http.admission import Admission, ClientLeftError, Slot, until_gone
from registry.http.conditional import Part, Unsatisfiable, Whole, asked_range, has, still
from registry.http.connection import SocketWriter
from registry.http.context import ABORT, SOCKET_WRITER, Receive, Scope, Send, context_of
from registry.http.errors import CLIENT_GONE, problem, problem_response, status_of
from registry.http.middleware import ResponseAbortedError

State = Literal["whole", "gone", "blocked", "turn"]

TIME_SLICE: Final = 0.5  # seconds
_PACE: Final = 1 << 20  # bytes


class Flow:
    """The bytes ``start`` to ``stop`` of a file. One thread at a time works on it."""

    def __init__(
        self, chunks: Callable[[int, int], Iterator[memoryview]], start: int, stop: int, writer: SocketWriter
    ) -> None:
        self.writer = writer
        self.sent = 0
        self._chunks = chunks
        self._start = start
        self._stop = stop
        self._pieces: Iterator[memoryview] | None = None
        self._piece = memoryview(b"")  # produced and not yet sent
        self._stopped = False

    @property
    def needs_slot(self) -> bool:
        """Whether the next byte has yet to be produced."""
        return not self._piece

    def begin(self) -> None:
        """Produce the first piece."""
        self._piece = self._next()

    def pump(self, *, make: bool) -> State:
        """Send until the end, the client blocks, or the time slice is over; ``make`` produces further pieces."""
        over = time.monotonic() + TIME_SLICE
        try:
            while not self._stopped:
                if not self._piece:
                    if not make:
                        return "turn"
                    self._piece = self._next()
                count = self.writer.push(self._piece)
                self.sent += count
                self._piece = self._piece[count:]
                if self._piece:
                    return "blocked"
                if self._start + self.sent >= self._stop:
                    return "whole"  # at once: a client that has all of it may have left before the next turn
                if time.monotonic() > over:
                    return "turn"
        except ConnectionError:
            pass
        return "gone"

    def stop(self) -> None:
        """The client is gone: produce no more. Thread-safe."""
        self._stopped = True

    def rest(self) -> None:
        """Drop what was produced ahead; it is made again later.

        Of the current piece only the unsent bytes stay: it may be a view of a larger buffer.
        """
        self._piece = memoryview(bytes(self._piece))
        pieces, self._pieces = self._pieces, None
        if pieces is not None:
            end = getattr(pieces, "close", None)
            if end is not None:
                end()

    def close(self) -> None:
        """Release everything."""
        self._piece = memoryview(b"")
        try:
            self.rest()
        finally:
            self.writer.close()

    def _next(self) -> memoryview:
        if self._pieces is None:
            self._pieces = self._chunks(self._start + self.sent, self._stop)
        piece = next(self._pieces, None)
        if piece is None:
            raise AssertionError(f"the file ends at byte {self._start + self.sent}, {self._stop} was promised")
        return piece


class Pace:
    """The minimum throughput of a client: a MiB in ``stall`` seconds."""

    def __init__(self, stall: float) -> None:
        self._stall = stall
        self._sent = 0
        self._since = time.monotonic()

    def restart(self) -> None:
        """Restart the clock: nothing was to be sent."""
        self._since = time.monotonic()

    def left(self, sent: int) -> float:
        """Seconds that are left to a client that has read so many bytes."""
        now = time.monotonic()
        if sent - self._sent >= _PACE:
            self._sent, self._since = sent, now
        return max(0.0, self._since + self._stall - now)


OCTETS: Final = "application/octet-stream"
T = TypeVar("T")


@dataclass(frozen=True)
class FileBody:
    """A file to send."""

    etag: str  # unquoted
    size: int
    chunks: Callable[[int, int], Iterator[memoryview]]
    close: Callable[[], None]  # called once, after the last read
    kind: str  # blob or artifact, for the metrics
    name: str  # download name
    picture: str | None = None  # the type by which a page shows it; None: bytes to download


class BodySender:
    """Sends the file bodies of one service."""

    def __init__(self, *, threads: int, stall: float, admissions: dict[str, Admission]) -> None:
        self._limiter = CapacityLimiter(threads)
        self._stall = stall
        self._admissions = admissions

    @property
    def under_way(self) -> int:
        """How many bodies are sent now, or wait for their turn."""
        return sum(one.inside for one in self._admissions.values())

    def answer(
        self,
        request: Request,
        file: FileBody,
        *,
        admission: str | Callable[[int, int], str],
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The response to a GET or HEAD for a file: 200, 206, 304 or 416. It closes the file.

        Args:
            request: of the client.
            file: what is sent.
            admission: kind of work; a function where that depends on the range.
            headers: additional response headers.
        """
        headers = {
            **(headers or {}),
            "ETag": f'"{file.etag}"',
            "Accept-Ranges": "bytes",
            # immutable, but revalidated on each use: rights may be revoked
            "Cache-Control": "private, no-cache",
            "Content-Disposition": _disposition(file),
        }
        asked = asked_range(request.headers.get("range"), file.size)
        if request.method != "GET" or not still(request.headers.get("if-range"), file.etag):
            asked = Whole()  # ranges apply to GET only
        if has(request.headers, file.etag):
            file.close()
            return Response(status_code=304, headers=headers)
        if isinstance(asked, Unsatisfiable):
            file.close()
            sentence = (
                f"The range {request.headers['range'][:64]!r} lies outside the file, which has {file.size} bytes."
            )
            told = problem(UsageError(sentence), context_of(request.scope).request, status=416)
            return problem_response(told, {**headers, "Content-Range": f"bytes */{file.size}"})
        context_of(request.scope).kind = file.kind
        start, stop, status = 0, file.size, 200
        if isinstance(asked, Part):
            start, stop, status = asked.start, asked.stop, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        headers["Content-Length"] = str(stop - start)
        if request.method == "HEAD" or start == stop:
            file.close()
            return Response(status_code=status, headers=headers, media_type=file.picture or OCTETS)
        kind = (lambda *_: admission) if isinstance(admission, str) else admission
        return BodyResponse(self, file, start, stop, status=status, headers=headers, admission=kind)

    async def send(self, body: BodyResponse, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a body, from admission to close."""
        gone = asyncio.create_task(until_gone(receive))
        flow = Flow(body.file.chunks, body.start, body.stop, scope[SOCKET_WRITER])
        gone.add_done_callback(lambda _: flow.stop())
        try:
            async with self._admissions[body.admission(body.start, body.stop)].slot(gone) as slot:
                await self._run(flow.begin)  # its errors are still problem documents
                # Else a client that has not read an earlier response keeps the slot while the head waits behind that.
                await self._wait_ready(flow, slot, scope, flow.writer.drained(self._stall))
                await send({"type": "http.response.start", "status": body.status_code, "headers": body.raw_headers})
                await self._wait_ready(flow, slot, scope, flow.writer.open(self._stall))
                await self._send_all(flow, slot, scope)
                flow.writer.finish(flow.sent)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientLeftError:
            context_of(scope).breaks(CLIENT_GONE)  # a thread that sends may hear of it before `gone` does
        finally:
            context_of(scope).sent += flow.sent
            gone.cancel()
            with anyio.CancelScope(shield=True):
                await self._run(partial(_end, flow, body.file.close))

    async def _send_all(self, flow: Flow, slot: Slot, scope: Scope) -> None:
        """Send to the end, in time slices.

        Raises:
            ClientLeftError: if the client disconnected.
        """
        pace = Pace(self._stall)
        while True:
            try:
                state = await self._run(partial(flow.pump, make=slot.held))
            except RegistryError as error:
                raise _aborted(error) from error
            if state == "gone":
                raise ClientLeftError
            if state == "whole":
                return
            if slot.contended:
                await self._run(flow.rest)
                slot.release()
            if state == "blocked" and not await self._wait_client(
                flow, slot, flow.writer.writable(pace.left(flow.sent))
            ):
                raise self._abort(scope)
            if flow.needs_slot and not slot.held:
                await self._reacquire(slot)
                pace.restart()

    async def _wait_ready(self, flow: Flow, slot: Slot, scope: Scope, takes: Coroutine[Any, Any, bool]) -> None:
        """Wait until earlier bytes are sent.

        Raises:
            ClientLeftError: if the client disconnected.
        """
        try:
            taken = await self._wait_client(flow, slot, takes)
        except ConnectionError as error:
            raise ClientLeftError from error
        if not taken:
            raise self._abort(scope)

    def _abort(self, scope: Scope) -> ResponseAbortedError:
        scope.get(ABORT, lambda: None)()
        return ResponseAbortedError(
            f"A response was aborted: the client read little or nothing for {self._stall:g} seconds.", CLIENT_GONE
        )

    async def _wait_client(self, flow: Flow, slot: Slot, takes: Coroutine[Any, Any, bool]) -> bool:
        """Wait for the client; the slot is yielded meanwhile if it is contended."""
        if not slot.held:
            return await takes
        waiting = asyncio.ensure_future(takes)
        contended = asyncio.ensure_future(slot.until_contended())
        try:
            await asyncio.wait({waiting, contended}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await self._run(flow.rest)
                slot.release()
            return await waiting
        finally:
            waiting.cancel()
            contended.cancel()
            await asyncio.gather(waiting, contended, return_exceptions=True)

    async def _reacquire(self, slot: Slot) -> None:
        try:
            await slot.acquire(self._stall)
        except RegistryError as error:
            raise _aborted(error) from error

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


class BodyResponse(Response):
    """A response whose body is produced while it is sent."""

    def __init__(
        self,
        bodies: BodySender,
        file: FileBody,
        start: int,
        stop: int,
        *,
        status: int,
        headers: dict[str, str],
        admission: Callable[[int, int], str],
    ) -> None:
        super().__init__(None, status_code=status, headers=headers, media_type=file.picture or OCTETS)
        self.file, self.start, self.stop, self.admission = file, start, stop, admission
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._bodies.send(self, scope, receive, send)


def _aborted(error: RegistryError) -> ResponseAbortedError:
    return ResponseAbortedError(f"A response was aborted: {error}", status_of(error))


def _end(flow: Flow, close: Callable[[], None]) -> None:
    try:
        flow.close()
    finally:
        close()


def _disposition(file: FileBody) -> str:
    """As an attachment, unless it is a picture: a stored file may be HTML, and must not run as a page of this host."""
    headers, kind = _Headers(), "attachment" if file.picture is None else "inline"
    headers.add_header("Content-Disposition", kind, filename=file.name.rpartition("/")[2])
    return headers["Content-Disposition"]
