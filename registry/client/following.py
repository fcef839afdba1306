"""Events of a service as it sends them: read from the stream, and asked for again from the last one on when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import httpx
from pydantic import ValidationError

from registry.client.errors import error_of, unreachable
from registry.client.transport import Transport
from registry.errors import UnavailableError
from registry.operations.following import Following, Lost
from registry.schemas.protocol import END_EVENT, Problem
from registry.schemas.team import FollowedEvent, FollowRequest

_STREAM: Final = "/events/stream"
_AT_ONCE: Final = 5.0  # seconds: a stream that ends before is cut by something that will cut the next one, too


@dataclass
class Sent:
    """One server-sent event: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

    id: str | None = None
    kind: str = ""
    data: str = ""


def sent_events(lines: Iterator[str]) -> Iterator[Sent]:
    """The events in the lines of a stream; one that is cut off is none. Comments are events without data."""
    sent = Sent()
    for line in lines:
        if not line:
            yield sent
            sent = Sent()
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            sent.id = value
        elif name == "event":
            sent.kind = value
        elif name == "data":
            sent.data = f"{sent.data}\n{value}" if sent.data else value


class FollowingThere(Following):
    """Events of a service. The first connection is made at once, and what refuses it is raised."""

    def __init__(self, transport: Transport, request: FollowRequest, lost: Lost | None) -> None:
        super().__init__(lost)
        self._transport = transport
        self._params = request.model_dump(mode="json", exclude={"since", "last"})
        self._once = request.once
        self._response: httpx.Response | None = None
        self._sent: Iterator[Sent] = iter(())
        self._open({"since": request.since, "last": request.last or None})
        first = self._next()  # says where it begins
        self.cursor = "" if first is None else first.id or ""

    def _open(self, begin: dict[str, str | int | None]) -> None:
        self._response = self._transport.listen(_STREAM, self._params | begin)
        self._opened = time.monotonic()
        self._sent = sent_events(self._response.iter_lines())

    def _next(self) -> Sent | None:
        try:
            return next(self._sent, None)
        except httpx.HTTPError as problem:
            self._release()
            raise unreachable(self._transport.url, problem) from problem

    def _more(self) -> Sequence[FollowedEvent] | None:
        if self._response is None:
            self._open({"since": self._seen})
        sent = self._next()
        if sent is None:  # the service stops, or something between cut the stream; of `once`, that is said
            self._release()
            if time.monotonic() - self._opened < _AT_ONCE:
                raise UnavailableError(f"{self._transport.url} ended the stream of events at once; try again later.")
            return ()
        if sent.kind == END_EVENT:
            self._release()
            if sent.data == "{}":
                return None
            raise error_of(Problem.model_validate_json(sent.data))
        return [self._event(sent)] if sent.data else ()

    def _event(self, sent: Sent) -> FollowedEvent:
        try:
            return FollowedEvent.model_validate_json(sent.data, extra="ignore")
        except ValidationError as problem:
            raise UnavailableError(
                f"{self._transport.url} sends an event that can't be read ({problem.errors()[0]['msg'].lower()}): "
                "check whether a proxy changes what it sends.",
                code="not_a_registry",
            ) from problem

    def _release(self) -> None:
        response, self._response = self._response, None
        self._sent = iter(())
        if response is not None:
            with suppress(httpx.HTTPError):
                response.close()
