"""Answers of bytes by range: exact sizes, tags, and a body made in threads while it is sent.

Nothing is held while a body is sent but the open blobs: no session, no lock, no connection to the database. The first
piece is made before the first byte of the answer leaves, so that an error there is still a problem; an error after it
breaks the connection, because a body that is cut must not look whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message as _Headers
from functools import partial
from typing import Any, Final, TypeVar

import anyio
from anyio import CapacityLimiter
from fastapi import Request, Response

from registry.errors import RegistryError, UsageError
from registry.http.admission import Admission, ClientLeftError, Seat
from registry.http.envelope import CutError, Receive, Send
from registry.http.exchange import ABORT, OUTLET, Scope, exchange_of
from registry.http.flow import Flow, Pace
from registry.http.problems import problem, problem_response
from registry.http.ranges import Part, Unsatisfiable, Whole, asked_range, names, still

OCTETS: Final = "application/octet-stream"
T = TypeVar("T")


@dataclass(frozen=True)
class Bytes:
    """A file that can be sent: what it is, and how its bytes are read."""

    etag: str  # unquoted
    size: int
    chunks: Callable[[int, int], Iterator[memoryview]]
    close: Callable[[], None]  # called once, when nothing of it is read any more
    kind: str  # blob or artifact, for the metrics
    name: str  # what a browser is to call it


class Bodies:
    """Sends files of one service."""

    def __init__(self, *, threads: int, stall: float, admissions: dict[str, Admission]) -> None:
        self._limiter = CapacityLimiter(threads)
        self._stall = stall
        self._admissions = admissions

    def answer(
        self,
        request: Request,
        file: Bytes,
        *,
        admission: str | Callable[[int, int], str],
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer to a GET or HEAD for a file: 200, 206, 304 or 416. It closes the file.

        Args:
            request: of the client.
            file: what is sent.
            admission: what kind of work it is; a function where that depends on the range.
            headers: of the answer, beside its own.
        """
        headers = {
            **(headers or {}),
            "ETag": f'"{file.etag}"',
            "Accept-Ranges": "bytes",
            # what is immutable may stay with the client, which asks each time: the right to read it may end
            "Cache-Control": "private, no-cache",
            "Content-Disposition": _attachment(file.name),
        }
        asked = asked_range(request.headers.get("range"), file.size)
        if request.method != "GET" or not still(request.headers.get("if-range"), file.etag):
            asked = Whole()  # a range means something for GET only
        if names(request.headers.get("if-none-match"), file.etag):
            file.close()
            return Response(status_code=304, headers=headers)
        if isinstance(asked, Unsatisfiable):
            file.close()
            sentence = f"The range {request.headers['range'][:64]!r} holds no byte of the {file.size} that there are."
            told = problem(UsageError(sentence), exchange_of(request.scope).request, status=416)
            return problem_response(told, {**headers, "Content-Range": f"bytes */{file.size}"})
        exchange_of(request.scope).kind = file.kind
        start, stop, status = 0, file.size, 200
        if isinstance(asked, Part):
            start, stop, status = asked.start, asked.stop, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        headers["Content-Length"] = str(stop - start)
        if request.method == "HEAD" or start == stop:
            file.close()
            return Response(status_code=status, headers=headers, media_type=OCTETS)
        kind = (lambda *_: admission) if isinstance(admission, str) else admission
        return BodyResponse(self, file, start, stop, status=status, headers=headers, admission=kind)

    async def send(self, body: BodyResponse, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a body, from admission to close."""
        gone = asyncio.create_task(_gone(receive))
        flow = Flow(body.file.chunks, body.start, body.stop, scope[OUTLET])
        gone.add_done_callback(lambda _: flow.stop())
        try:
            async with self._admissions[body.admission(body.start, body.stop)].seat(gone) as seat:
                await self._run(flow.begin)  # what it raises is still a problem
                # Else a client that has not read an earlier answer keeps the seat while the head waits behind that.
                if not await self._taken(flow, seat, scope, flow.outlet.drained(self._stall)):
                    return
                await send({"type": "http.response.start", "status": body.status_code, "headers": body.raw_headers})
                opened = await self._taken(flow, seat, scope, flow.outlet.open(self._stall))
                if opened and await self._send_all(flow, seat, scope):
                    flow.outlet.finish(flow.sent)
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientLeftError:
            return
        finally:
            exchange_of(scope).sent += flow.sent
            gone.cancel()
            with anyio.CancelScope(shield=True):
                await self._run(partial(_end, flow, body.file.close))

    async def _send_all(self, flow: Flow, seat: Seat, scope: Scope) -> bool:
        """Send to the end, in turns; False if the client went away."""
        pace = Pace(self._stall)
        while True:
            try:
                state = await self._run(partial(flow.pump, make=seat.held))
            except RegistryError as error:
                raise CutError(f"An answer was cut: {error}") from error
            if state in {"whole", "gone"}:
                return state == "whole"
            if seat.wanted:
                await self._run(flow.rest)
                seat.leave()
            if state == "blocked" and not await self._client(flow, seat, flow.outlet.writable(pace.left(flow.sent))):
                raise self._cut(scope)
            if flow.needs_seat and not seat.held:
                await self._back(seat)
                pace.restart()

    async def _taken(self, flow: Flow, seat: Seat, scope: Scope, takes: Coroutine[Any, Any, bool]) -> bool:
        """Wait until the client took what was before this body; False if it went away."""
        try:
            taken = await self._client(flow, seat, takes)
        except ConnectionError:
            return False
        if not taken:
            raise self._cut(scope)
        return True

    def _cut(self, scope: Scope) -> CutError:
        scope.get(ABORT, lambda: None)()
        return CutError(f"An answer was cut: the client took nothing, or little, for {self._stall:g} seconds.")

    async def _client(self, flow: Flow, seat: Seat, takes: Coroutine[Any, Any, bool]) -> bool:
        """Wait for the client; who wants the seat meanwhile has it."""
        if not seat.held:
            return await takes
        waiting = asyncio.ensure_future(takes)
        wanted = asyncio.ensure_future(seat.until_wanted())
        try:
            await asyncio.wait({waiting, wanted}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await self._run(flow.rest)
                seat.leave()
            return await waiting
        finally:
            waiting.cancel()
            wanted.cancel()
            await asyncio.gather(waiting, wanted, return_exceptions=True)

    async def _back(self, seat: Seat) -> None:
        try:
            await seat.take(self._stall)
        except RegistryError as error:
            raise CutError(f"An answer was cut: {error}") from error

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


class BodyResponse(Response):
    """An answer whose body is made while it is sent."""

    def __init__(
        self,
        bodies: Bodies,
        file: Bytes,
        start: int,
        stop: int,
        *,
        status: int,
        headers: dict[str, str],
        admission: Callable[[int, int], str],
    ) -> None:
        super().__init__(None, status_code=status, headers=headers, media_type=OCTETS)
        self.file, self.start, self.stop, self.admission = file, start, stop, admission
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._bodies.send(self, scope, receive, send)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _end(flow: Flow, close: Callable[[], None]) -> None:
    try:
        flow.close()
    finally:
        close()


def _attachment(name: str) -> str:
    """Never shown by a browser as a page of this host: a stored file may be HTML."""
    headers = _Headers()
    headers.add_header("Content-Disposition", "attachment", filename=name.rpartition("/")[2])
    return headers["Content-Disposition"]
