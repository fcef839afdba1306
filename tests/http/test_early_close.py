"""Clients that close the connection: with all bytes that is no error, and before that none of the service."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
import threading
import time

import httpx
import pytest
from fastapi import Request

from registry.app import service_app
from registry.errors import IntegrityError
from registry.http import bodies
from registry.http.bodies import Flow, State
from registry.http.context import SOCKET_WRITER, Receive
from registry.http.limits import Limits
from registry.http.payloads import JSON
from registry.schemas.protocol import API
from tests.http.test_bodies import Source, opened, sending, zeros
from tests.kit.library import Library, Lines, assert_problem, library, log, running

__all__ = ["library", "log"]
SIZE = 300_000
FORM = "application/x-www-form-urlencoded"
OCTETS = "application/octet-stream"


@pytest.fixture
def last_turn_ends_after_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows as they are, in threads that get the processor late: the service hears first that the client left."""

    class Late(Flow):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)  # type: ignore[arg-type]
            self.left = threading.Event()

        def pump(self, *, make: bool) -> State:
            state = super().pump(make=make)
            assert state != "whole" or self.left.wait(120)
            return state

        def stop(self) -> None:
            super().stop()
            self.left.set()

    monkeypatch.setattr(bodies, "Flow", Late)


@pytest.mark.usefixtures("last_turn_ends_after_the_client")
def test_who_has_all_and_closes_at_once_had_a_whole_answer(log: Lines) -> None:
    source = Source(SIZE, zeros)
    with running(sending(source, Limits())) as url:
        with opened(url) as wire:
            received = b""
            while len(received.partition(b"\r\n\r\n")[2]) < SIZE:
                received += wire.recv(1 << 20)
        (line,) = log.of_requests(1)
    assert (line["status"], line["sent"]) == (200, SIZE)
    assert log.all == [line]
    assert source.closed.is_set()


def hang_up(wire: socket.socket, *, reset: bool) -> None:
    """Close as a program does that ends, or as one does that is killed with bytes unread."""
    if reset:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


BODIES = [
    ("POST", f"{API}/publishes", JSON),
    ("PUT", "{part}", OCTETS),
    ("POST", "/hf/api/models/tiny/a/preupload/main", JSON),
    ("POST", "/hf/api/models/tiny/a/commit/main", "application/x-ndjson"),
    ("POST", "/hf/tiny/a.git/info/lfs/objects/batch", "application/vnd.git-lfs+json"),
    ("PUT", "{lfs}", OCTETS),
    ("POST", "/sign-in", FORM),
]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_who_hangs_up_while_sending_is_no_fault_of_the_service(library: Library, log: Lines, *, reset: bool) -> None:
    """Of no face: own status in log and metrics, no traceback, and nothing of the body is kept."""
    app, who = service_app(library.registry), library.headers("admin")
    data = bytes(100_000)
    with running(app) as url, httpx.Client(base_url=url, headers=who, timeout=120) as client:
        asked = {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
        upload = client.post(f"{API}/uploads", json=asked).json()
        lfs = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": "ab" * 32, "size": len(data)}]}
        batch = client.post("/hf/tiny/a.git/info/lfs/objects/batch", json=lfs).json()
        places = {
            "part": f"{API}/uploads/{upload['id']}/parts/1",
            "lfs": batch["objects"][0]["actions"]["upload"]["href"].removeprefix(url),
        }
        for number, (method, path, kind) in enumerate(BODIES):
            given = {**who, "Host": "x", "Content-Type": kind, "Content-Length": str(len(data))}
            given |= {"X-Request-Id": f"hung-up-{number}", "Expect": "100-continue"}
            lines = [f"{name}: {value}" for name, value in given.items()]
            wire = socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=120)
            wire.sendall("\r\n".join([f"{method} {path.format(**places)} HTTP/1.1", *lines, "", ""]).encode())
            assert wire.recv(12) == b"HTTP/1.1 100"  # it reads now
            wire.sendall(data[: len(data) // 2])
            hang_up(wire, reset=reset)
            line = log.of_request(f"hung-up-{number}")
            assert (line["status"], line["sent"]) == (499, 0), path
        assert client.get(f"{API}/uploads/{upload['id']}").json()["there"] == []
    assert [line["event"] for line in log.all if line["event"] != "request"] == []
    counted = [line for line in app.state.service.metrics.text().decode().splitlines() if 'status="' in line]
    assert len([line for line in counted if "_total{" in line and 'status="499"} 1.0' in line]) == len(BODIES)
    assert not [line for line in counted if 'status="5' in line]


def test_who_hangs_up_while_reading_is_no_fault_of_the_service(log: Lines) -> None:
    source = Source(1 << 40, zeros)
    with running(sending(source, Limits())) as url:
        with opened(url) as wire:
            assert wire.recv(12) == b"HTTP/1.1 200"
        (line,) = log.of_requests(1)
    assert (line["status"], log.all) == (499, [line])


def test_who_hangs_up_while_reading_is_noted_by_the_thread_that_sends(
    log: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may meet the broken connection before the event loop tells that the client left."""

    async def hears_nothing(receive: Receive) -> None:
        del receive
        await asyncio.Event().wait()

    monkeypatch.setattr(bodies, "until_gone", hears_nothing)
    with running(sending(Source(1 << 40, zeros), Limits())) as url:
        with opened(url) as wire:
            assert wire.recv(12) == b"HTTP/1.1 200"
        (line,) = log.of_requests(1)
    assert (line["status"], log.all) == (499, [line])


def test_who_hangs_up_before_an_answer_is_no_fault_of_the_service(log: Lines) -> None:
    app, left = sending(Source(1, zeros), Limits()), threading.Event()

    @app.get("/late")
    def late(request: Request) -> str:
        left.set()
        while not request.scope[SOCKET_WRITER].closed:
            time.sleep(0.01)
        return "too late"

    with running(app) as url:
        with opened(url, path="/late"):
            assert left.wait(120)
        (line,) = log.of_requests(1)
    assert (line["status"], line["sent"], log.all) == (499, 0, [line])


def test_an_answer_that_the_service_breaks_off_has_the_status_of_its_fault(log: Lines) -> None:
    """Its head said 200: in log and metrics it is none of the answers that went well."""

    def damaged(length: int) -> memoryview:
        if source.made > 3:
            raise IntegrityError("The blob is damaged.")
        return zeros(length)

    source = Source(1 << 20, damaged)
    with running(sending(source, Limits())) as url:
        with opened(url) as wire:
            while wire.recv(1 << 20):
                pass
        (line,) = log.of_requests(1)
    assert line["status"] == 500
    assert line["sent"] > 0


def test_a_bug_is_told_in_the_form_of_all_problems_where_something_is_changed_too(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("registry.services.intake.uploads.begin_upload", broken)
    with running(service_app(library.registry)) as url:
        asked = {"digest": f"sha256:{'ab' * 32}", "size": 1}
        answer = httpx.post(f"{url}{API}/uploads", json=asked, headers=library.headers("admin"), timeout=120)
    assert_problem(answer, 500, "unexpected")
