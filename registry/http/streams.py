"""Streams of events that are sent as they come (server-sent events), with one look at the database for all of them.

While streams are open, a task looks twice a second up to where events are settled, and wakes the streams if that has
moved: at rest a stream costs a comment every 15 seconds. Whether its client still has access is asked before events are
sent, and with each comment. A stream ends when the service stops; its client comes back with the id of the last event.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Response

from registry.catalogue.database.following import Settled
from registry.errors import RegistryError, UnavailableError
from registry.http.admission import Share, too_many, until_gone
from registry.http.context import ABORT, Receive, Scope, Send, context_of
from registry.http.errors import CLIENT_GONE, problem
from registry.http.limits import Limits
from registry.http.metrics import SharedValues
from registry.http.middleware import ResponseAbortedError
from registry.schemas.protocol import END_EVENT, EVENT_STREAM
from registry.schemas.team import FollowedEvent
from registry.services.following import POLL, SOON, Follower

BEAT: Final = 15.0  # seconds between two comments: proxies cut what is silent for a minute, some for half of one
_CHECKED: Final = 1.0  # seconds for which access that was checked holds
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep events back until they fill a buffer
}
_BEGIN: Final = "retry: 1000\n"  # milliseconds until a browser comes back

log = logging.getLogger(__name__)
Run = Callable[..., Awaitable[Any]]


class EventStreams:
    """The streams of one process. All but `close` is called by one event loop.

    Args:
        settled: up to where events can be sent.
        run: runs a function in a thread.
        limits: how many streams there may be, and how long a client may read nothing.
        place: the workers of the service; None where this is the only one.
    """

    def __init__(self, settled: Settled, run: Run, limits: Limits, place: SharedValues | None = None) -> None:
        self.settled = settled
        self._run = run
        self._limits = limits
        self._open = Share("event streams", limits.streams, place)
        self._of_each: Counter[str] = Counter()
        self._news: asyncio.Event | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def open(self) -> int:
        """How many streams of this process are open."""
        return self._open.mine

    def close(self) -> None:
        """End all streams soon, and each that begins: the service stops. In the thread of the loop."""
        self._closing = True
        self._wake()

    @contextmanager
    def _place(self, who: str) -> Iterator[None]:
        if not self._open.is_free or self._of_each[who] >= self._limits.streams_of_one:
            raise too_many("streams of events")
        self._open.add(1)
        self._of_each[who] += 1
        if self._watch is None:
            self._news = asyncio.Event()
            self._watch = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._open.add(-1)
            self._of_each -= Counter([who])
            if not self._of_each:
                self._watch.cancel()
                self._watch = None

    async def _look(self) -> None:
        key, away = 0, False
        while True:
            try:
                found = await self._run(self.settled.look)
                away = False
            except Exception as error:  # noqa: BLE001 - streams would wait for ever
                if not away:
                    log.warning("events can't be looked for: %s", error)
                found, away = key, True
            if found > key:
                key = found
                self._wake()
            await asyncio.sleep(SOON if self.settled.waits else POLL)

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = asyncio.Event()

    async def send(self, stream: EventStream, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a stream until its client leaves, loses access, or has all that it asked for; or the service stops.

        Raises:
            UnavailableError: ``busy``, there are too many.
            ResponseAbortedError: the client reads nothing.
        """
        with self._place(stream.who):
            gone = asyncio.create_task(until_gone(receive))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": stream.raw_headers})
                out = _Out(scope, send, self._limits.stall_time)
                await out.write(f"{_BEGIN}id: {stream.follower.cursor}\n\n")
                await self._send_all(stream, out, gone)
                if not gone.done():
                    await out.end()
            finally:
                gone.cancel()
            if gone.done() and not gone.cancelled():
                context_of(scope).breaks(CLIENT_GONE)

    async def _send_all(self, stream: EventStream, out: _Out, gone: asyncio.Task[None]) -> None:
        checked = beat = time.monotonic()
        while not (gone.done() or self._closing):
            news = self._news  # before reading: what comes meanwhile wakes the next wait
            now = time.monotonic()
            try:
                if now - checked > _CHECKED:
                    await self._run(stream.check)
                    checked = now
                found: Sequence[FollowedEvent] = await self._run(stream.follower.next)
            except UnavailableError:  # the database is away, as the log says: the stream waits for it
                await _first(gone, asyncio.Event(), POLL)
                found = ()
            except RegistryError as error:
                await out.write(f"event: {END_EVENT}\ndata: {problem(error).model_dump_json()}\n\n")
                return
            if found:
                await out.write("".join(f"id: {one.cursor}\ndata: {one.model_dump_json()}\n\n" for one in found))
                beat = time.monotonic()
            elif stream.once and not stream.follower.more:
                await out.write(f"event: {END_EVENT}\ndata: {{}}\n\n")
                return
            elif now - beat >= BEAT:
                await out.write(":\n\n")
                beat = now
            if not (stream.once or stream.follower.more) and news is not None:
                await _first(gone, news, beat + BEAT - time.monotonic())


async def _first(gone: asyncio.Task[None], news: asyncio.Event, seconds: float) -> None:
    waiting = asyncio.create_task(news.wait())
    try:
        await asyncio.wait({gone, waiting}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


@dataclass(frozen=True)
class _Out:
    """The body of a response, which a client has to read."""

    scope: Scope
    send: Send
    stall: float

    async def write(self, text: str) -> None:
        """Send some text; raises `ResponseAbortedError` if the client takes none for too long."""
        message = {"type": "http.response.body", "body": text.encode(), "more_body": True}
        try:
            await asyncio.wait_for(self.send(message), self.stall)
        except TimeoutError:
            self.scope.get(ABORT, lambda: None)()
            raise ResponseAbortedError(
                f"A stream of events was aborted: the client read nothing for {self.stall:g} seconds.", CLIENT_GONE
            ) from None

    async def end(self) -> None:
        """The body is whole."""
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


class EventStream(Response):
    """A response that sends the events of a follower.

    Args:
        streams: those of the service.
        follower: has begun, so that what is wrong with the request is a problem document.
        who: the token or address, of whose streams there may be so many.
        check: raises `NotAllowedError` when the client has no access any more.
        once: the stream ends with the events that are there.
    """

    def __init__(
        self, streams: EventStreams, follower: Follower, *, who: str, check: Callable[[], object], once: bool
    ) -> None:
        super().__init__(None, headers=dict(_HEADERS), media_type=EVENT_STREAM)
        del self.headers["content-length"]
        self.follower, self.who, self.check, self.once = follower, who, check, once
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._streams.send(self, scope, receive, send)
