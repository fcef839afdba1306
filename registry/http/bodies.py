"""Answers of bytes by range: exact sizes, tags, and a body made in threads while it is sent.

Nothing is held while a body is sent but the open blobs: no session, no lock, no connection to the database. The first
piece is made before the first byte of the answer leaves, so that an error there is still a problem; an error after it
breaks the connection, because a body that is cut must not look whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message as _Headers
from typing import Final

import anyio
from anyio import CapacityLimiter
from fastapi import Request, Response

from registry.errors import RegistryError, UsageError
from registry.http.admission import Admission
from registry.http.envelope import CutError, Receive, Send
from registry.http.exchange import ABORT, Scope, exchange_of
from registry.http.problems import problem, problem_response
from registry.http.ranges import Part, Unsatisfiable, Whole, asked_range, names, still

OCTETS: Final = "application/octet-stream"
_SLICE: Final = 1 << 20  # of a piece that goes to the socket at once


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
        self, request: Request, file: Bytes, *, admission: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        """The answer to a GET or HEAD for a file: 200, 206, 304 or 416. It closes the file."""
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
        return BodyResponse(self, file, start, stop, status=status, headers=headers, admission=admission)

    async def send(self, body: BodyResponse, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a body, from admission to close."""
        gone = asyncio.create_task(_gone(receive))
        pieces = body.file.chunks(body.start, body.stop)
        try:
            async with self._admissions[body.admission].seat():
                piece = await self._next(pieces)  # what it raises is still a problem
                await send({"type": "http.response.start", "status": body.status_code, "headers": body.raw_headers})
                while piece is not None:
                    await self._send_piece(piece, scope, send)
                    piece = None if gone.done() else await self._next_or_cut(pieces)
                if not gone.done():
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_end, pieces, body.file.close, limiter=self._limiter)

    async def _next(self, pieces: Iterator[memoryview]) -> memoryview | None:
        return await anyio.to_thread.run_sync(next, pieces, None, limiter=self._limiter)

    async def _next_or_cut(self, pieces: Iterator[memoryview]) -> memoryview | None:
        try:
            return await self._next(pieces)
        except RegistryError as error:
            raise CutError(f"An answer was cut: {error}") from error

    async def _send_piece(self, piece: memoryview, scope: Scope, send: Send) -> None:
        for at in range(0, len(piece), _SLICE):
            message = {"type": "http.response.body", "body": piece[at : at + _SLICE], "more_body": True}
            try:
                await asyncio.wait_for(send(message), self._stall)
            except TimeoutError:
                scope.get(ABORT, lambda: None)()
                raise CutError(f"An answer was cut: the client took nothing for {self._stall:g} seconds.") from None


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
        admission: str,
    ) -> None:
        super().__init__(None, status_code=status, headers=headers, media_type=OCTETS)
        self.file, self.start, self.stop, self.admission = file, start, stop, admission
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._bodies.send(self, scope, receive, send)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _end(pieces: Iterator[memoryview], close: Callable[[], None]) -> None:
    end = getattr(pieces, "close", None)
    try:
        if end is not None:
            end()
    finally:
        close()


def _attachment(name: str) -> str:
    """Never shown by a browser as a page of this host: a stored file may be HTML."""
    headers = _Headers()
    headers.add_header("Content-Disposition", "attachment", filename=name.rpartition("/")[2])
    return headers["Content-Disposition"]
