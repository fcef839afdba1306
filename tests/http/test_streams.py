"""Streams of events: their form, who gets one and for how long, and what is done when something between is away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.app import service_app
from registry.catalogue.database import events
from registry.catalogue.database.following import Settled
from registry.client.following import Sent, sent_events
from registry.client.remote import RemoteRegistry
from registry.errors import RegistryError, UnavailableError
from registry.folders.staging import FetchCache
from registry.http import streams
from registry.http.context import ABORT, begin_context
from registry.http.limits import Limits
from registry.http.middleware import ResponseAbortedError
from registry.http.server import Server, listen
from registry.operations import following
from registry.operations.following import START
from registry.rights import UNLIMITED, Principal
from registry.schemas.protocol import API
from registry.services.local import LocalRegistry
from tests.kit.library import assert_problem
from tests.kit.serving import QUICK, served

STREAM = f"{API}/events/stream"
WHO = Principal("anna", UNLIMITED)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as opened:
        happen(opened, "llama/a", "llama/b")
        yield opened


def happen(registry: LocalRegistry, *subjects: str) -> None:
    for subject in subjects:
        registry.deployment.database.change(
            lambda session, subject=subject: events.record(session, "tag", subject, WHO, {"tag": "prod"})  # type: ignore[misc]
        )


@contextmanager
def stream(url: str, headers: dict[str, str] | None = None, **params: Any) -> Iterator[Iterator[list[str]]]:
    """The blocks of a stream, as lines."""
    with httpx.stream("GET", url + STREAM, params=params, headers=headers, timeout=120) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        yield blocks(response.iter_lines())


def blocks(lines: Iterator[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for line in lines:
        if line:
            block.append(line)
            continue
        yield block
        block = []


def subject(block: list[str]) -> str:
    (cursor, data) = block
    told = json.loads(data.removeprefix("data: "))
    assert cursor == f"id: {told['cursor']}"
    return str(told["subject"])


def test_a_stream_is_what_browsers_read(registry: LocalRegistry) -> None:
    with served(registry) as url:
        with stream(url, since=START, once=True) as found:
            retry, *rest, end = found
        assert retry == ["retry: 1000", "id: start"]
        assert [subject(block) for block in rest] == ["llama/a", "llama/b"]
        assert end == ["event: end", "data: {}"]
        first = rest[0][0].removeprefix("id: ")
        # EventSource comes back to the address that it was given, with the id of the last event.
        with stream(url, {"Last-Event-ID": first}, since=START, once=True) as found:
            (_, begun), *rest, _ = found
        assert (begun, [subject(block) for block in rest]) == (f"id: {first}", ["llama/b"])
        with stream(url) as found:
            (_, begun) = next(found)
            happen(registry, "llama/c")
            assert subject(next(found)) == "llama/c"
        for headers, params in (({"Last-Event-ID": "x"}, {}), ({}, {"since": "x"})):
            assert_problem(httpx.get(url + STREAM, headers=headers, params=params, timeout=120), 400, "usage")
        assert_problem(httpx.get(url + STREAM, params={"last": 10_001}, timeout=120), 422, "usage")


def test_a_silent_stream_has_comments(registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BEAT", 0.02)
    with served(registry) as url, stream(url) as found:
        assert next(found)[0] == "retry: 1000"
        assert [next(found) for _ in range(3)] == [[":"]] * 3


def test_streams_are_bounded_and_places_are_given_back(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BEAT", 0.05)

    def busy(headers: dict[str, str] | None = None) -> None:
        assert_problem(httpx.get(url + STREAM, headers=headers, timeout=120), 503, "busy")

    other = {"Authorization": f"Bearer {registry.create_token('reader').secret}"}
    with served(registry, Limits(streams=3, streams_of_one=2), anonymous="read") as url:
        with ExitStack() as open_ones:
            kept = [open_ones.enter_context(stream(url)) for _ in range(2)]  # forgotten, they would be closed
            assert [next(found)[0] for found in kept] == ["retry: 1000"] * 2
            busy()
            kept.append(open_ones.enter_context(stream(url, other)))
            assert next(kept[-1])[0] == "retry: 1000"
            busy(other)
            assert next(kept[0]) == [":"]
        for _ in range(1000):  # who hung up is noticed soon
            if httpx.get(url + STREAM, params={"once": True}, timeout=120).status_code == 200:
                break
        else:
            raise AssertionError("no place was given back")
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_service_that_stops_ends_its_streams(registry: LocalRegistry) -> None:
    """As a whole response: nothing is cut off, and nobody waits for the time that a stop may take."""
    with ExitStack() as service:
        url = service.enter_context(served(registry, Limits(stop_time=20)))
        with stream(url) as found:
            next(found)
            service.close()
            assert list(found) == []


@contextmanager
def on_port(registry: LocalRegistry, port: int) -> Iterator[str]:
    listener = listen("127.0.0.1", port)
    server = Server(service_app(registry, anonymous="open", limits=Limits()), Limits())
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert server.ready.wait(120)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.stop()
        thread.join()
        listener.close()


def test_a_client_goes_on_after_the_service_was_away(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_FIRST", 0.02)
    said: list[RegistryError] = []
    with ExitStack() as service:
        url = service.enter_context(on_port(registry, 0))
        client = RemoteRegistry(url, cache=FetchCache(tmp_path / "other"), retry=QUICK)
        with closing(client), client.follow_events(last=1, lost=said.append) as found:
            assert next(found).subject == "llama/b"
            happen(registry, "llama/c")
            assert next(found).subject == "llama/c"
            service.close()
            happen(registry, "llama/d", "llama/e")

            def back() -> None:
                service.enter_context(on_port(registry, int(url.rpartition(":")[2])))

            timer = threading.Timer(0.3, back)
            timer.start()
            assert [next(found).subject for _ in range(2)] == ["llama/d", "llama/e"]
            timer.join()
            happen(registry, "llama/f")
            assert next(found).subject == "llama/f"
    assert len(said) == 1
    assert str(said[0]).startswith(url)


def test_a_stream_outlasts_a_database_that_is_away(registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    look, left = Settled.look, [UnavailableError("the database is away") for _ in range(3)]

    def away(self: Settled) -> int:
        if left:
            raise left.pop()
        return look(self)

    monkeypatch.setattr(streams, "POLL", 0.02)
    monkeypatch.setattr(Settled, "look", away)
    with served(registry) as url, stream(url, since=START) as found:
        assert next(found)[0] == "retry: 1000"
        assert [subject(next(found)) for _ in range(2)] == ["llama/a", "llama/b"]
        assert left == []


def test_a_client_that_reads_nothing_is_let_go() -> None:
    aborted: list[bool] = []
    scope: dict[str, Any] = {"type": "http", "headers": [], ABORT: lambda: aborted.append(True)}
    begin_context(scope)

    async def blocks_for_ever(_: Any) -> None:
        await asyncio.Event().wait()

    with pytest.raises(ResponseAbortedError, match=r"read nothing for 0\.01 seconds"):
        asyncio.run(streams._Out(scope, blocks_for_ever, 0.01).write("id: x\n\n"))
    assert aborted == [True]


LINES = st.lists(st.sampled_from(["", ":", ": hm", "id: a", "id:b", "data: 1", "data: 2", "event: end", "retry: 5"]))


@given(LINES)
def test_blocks_are_read_as_the_standard_says(lines: list[str]) -> None:
    wanted = []
    for block in _whole_blocks(lines):
        fields = [line.split(":", 1) for line in block]
        values = {name: value.removeprefix(" ") for name, value in fields}
        data = "\n".join(value.removeprefix(" ") for name, value in fields if name == "data")
        wanted.append(Sent(values.get("id"), values.get("event", ""), data))
    assert list(sent_events(iter(lines))) == wanted


def _whole_blocks(lines: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in lines:
        if line:
            found[-1].append(line)
        else:
            found.append([])
    return found[:-1]
