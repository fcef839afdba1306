"""Turns at the seats: who sits there is asked to leave, and nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import Response

from registry.http import bodies
from registry.http.admission import Admission, Slot
from registry.http.bodies import Flow, State
from registry.http.limits import Limits
from registry.schemas.protocol import API
from tests.http.test_admission import at_once, never, sit
from tests.http.test_bodies import Pattern, Source, opened, sending, zeros
from tests.kit.library import Lines, log, running

__all__ = ["log"]
MIB = 1 << 20


def test_who_left_is_not_asked_to_leave() -> None:
    """A wish is of a seat that is held: that of one who left before it was granted is none."""

    async def story() -> None:
        slots, away, end = Admission("bodies", slots=1, queue=3, timeout=10.0), asyncio.Event(), asyncio.Event()

        async def leaves_while_it_waits(slot: Slot) -> None:
            waiting = asyncio.ensure_future(slot.until_contended())
            await asyncio.sleep(0)
            slot.release()
            away.set()
            await end.wait()
            waiting.cancel()

        async def can_do_without(slot: Slot) -> None:
            await slot.until_contended()

        first = asyncio.ensure_future(sit(slots, never(), leaves_while_it_waits))
        await away.wait()
        second = asyncio.ensure_future(sit(slots, never(), can_do_without))
        await asyncio.sleep(0)
        await sit(slots, never(), at_once)
        end.set()
        await asyncio.gather(first, second)

    asyncio.run(story())


class Pumps:
    """What came of each turn, body by body in the order in which they began."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._flows: list[Flow] = []
        self._states: list[list[tuple[State, bool]]] = []

    def note(self, flow: Flow, state: State, held: bool) -> None:
        with self._changed:
            if flow not in self._flows:
                self._flows.append(flow)
                self._states.append([])
            self._states[self._flows.index(flow)].append((state, held))
            self._changed.notify_all()

    def wait_for(self, body: int, state: State, *, held: bool) -> None:
        """Wait until a body's last turn ended like this, with a seat or without one."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: len(self._states) > body and self._states[body][-1] == (state, held), 30
            ), self._states


@pytest.fixture
def pumps(monkeypatch: pytest.MonkeyPatch) -> Pumps:
    """Flows as they are, whose turns are noted."""
    noted = Pumps()

    class Noted(Flow):
        def pump(self, *, make: bool) -> State:
            state = super().pump(make=make)
            noted.note(self, state, make)
            return state

    monkeypatch.setattr(bodies, "Flow", Noted)
    return noted


def take(wire: socket.socket, count: int) -> None:
    while count > 0:
        count -= len(wire.recv(min(count, MIB)))


@pytest.mark.slow
def test_clients_that_stall_without_a_seat_keep_nobody_waiting(pumps: Pumps) -> None:
    source = Pattern(len(Pattern.data), zeros, piece=16 * MIB)  # more than the buffers of both sides hold
    with running(sending(source, replace(Limits(), computed=1))) as url, ExitStack() as clients:
        first = clients.enter_context(opened(url, 1 << 16))
        pumps.wait_for(0, "blocked", held=True)
        clients.enter_context(opened(url, 1 << 16))
        pumps.wait_for(1, "blocked", held=True)
        take(first, 3 * MIB)  # of the piece that it had made: it stalls again, without a seat
        pumps.wait_for(0, "blocked", held=False)
        clients.enter_context(opened(url, 1 << 16))
        pumps.wait_for(2, "blocked", held=True)
        for _ in range(2):
            answer = httpx.get(f"{url}{API}/file", timeout=60)
            assert (answer.status_code, answer.content) == (200, source.data)


def test_an_earlier_answer_is_waited_for_without_a_seat() -> None:
    """Two requests at once, and nothing read: while the first answer is not taken, others have the second's seat."""
    app = sending(Source(10, zeros), replace(Limits(), computed=1))

    @app.get(f"{API}/large")
    def large() -> Response:
        return Response(bytes(64 * MIB))

    with running(app) as url, both(url) as wire, wire.makefile("rb") as stream:
        assert head(stream).startswith(b"HTTP/1.1 200")
        for _ in range(2):
            assert httpx.get(f"{url}{API}/file", timeout=60).content == bytes(10)
        assert stream.read(64 * MIB) == bytes(64 * MIB)
        assert head(stream).startswith(b"HTTP/1.1 200")
        assert stream.read(10) == bytes(10)


def both(url: str) -> socket.socket:
    """A client that asks for the large answer and for the file, and reads nothing yet."""
    address, wire = urlsplit(url), socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    wire.settimeout(120)
    wire.connect((address.hostname, address.port))
    wire.sendall(b"".join(f"GET {API}/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for name in ("large", "file")))
    return wire


def head(stream: BinaryIO) -> bytes:
    return b"".join(iter(stream.readline, b"\r\n"))


def test_who_never_takes_an_earlier_answer_is_cut_off(log: Lines) -> None:
    source = Source(10, zeros)
    app = sending(source, replace(Limits(), computed=1, stall_time=0.2))

    @app.get(f"{API}/large")
    def large() -> Response:
        return Response(bytes(64 * MIB))

    with running(app) as url, both(url) as wire:
        assert source.closed.wait(120)
        with contextlib.suppress(ConnectionResetError):
            while wire.recv(MIB):
                pass
    assert any("read little or nothing" in str(line["event"]) for line in log.all)
    assert not [line for line in log.all if line["level"] == "error"]
