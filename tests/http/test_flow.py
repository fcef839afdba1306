"""A body in turns: what is made with a seat, and what is only sent without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from registry.http.bodies import Flow, Pace
from registry.http.connection import SocketWriter

DATA = bytes(range(100))


class Taking:
    """A client that takes so many bytes at a time, and then no more for now."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.taken = b""

    def push(self, data: memoryview) -> int:
        count = min(self.at_once, len(data))
        self.taken += data[:count]
        return count

    def close(self) -> None:
        """Nothing is held."""


class Files:
    def __init__(self) -> None:
        self.made = 0
        self.ended = 0

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        try:
            for at in range(start, stop, 10):
                self.made += 1
                yield memoryview(DATA)[at : min(at + 10, stop)]
        finally:
            self.ended += 1


def flow_to(client: Any, files: Files, start: int = 0) -> Flow:
    return Flow(files.chunks, start, len(DATA), cast("SocketWriter", client))


def test_without_a_seat_nothing_is_made() -> None:
    client, files = Taking(4), Files()
    flow = flow_to(client, files)
    flow.begin()
    assert flow.pump(make=True) == "blocked"
    flow.rest()
    assert files.ended == 1
    states = [flow.pump(make=False) for _ in range(3)]
    assert states == ["blocked", "turn", "turn"]
    assert (files.made, client.taken) == (1, DATA[:10])
    assert flow.needs_slot


def test_without_a_seat_only_what_is_not_sent_is_kept() -> None:
    client, files = Taking(4), Files()
    flow = flow_to(client, files)
    flow.begin()
    assert flow.pump(make=True) == "blocked"
    assert flow._piece.obj is DATA  # a view of much more
    flow.rest()
    assert flow._piece.obj == DATA[4:10]


def test_it_goes_on_where_it_was_after_every_turn() -> None:
    client, files = Taking(7), Files()
    flow = flow_to(client, files, start=3)
    flow.begin()
    for _ in range(100):
        if flow.pump(make=True) == "whole":
            break
        flow.rest()
    assert client.taken == DATA[3:]
    assert flow.sent == 97
    flow.close()


def test_the_end_needs_no_seat() -> None:
    client, files = Taking(1000), Files()
    flow = flow_to(client, files, start=95)
    flow.begin()
    assert flow.pump(make=False) == "whole"


def test_the_last_byte_is_the_end_though_the_turn_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may have left with all of it before the next turn, and that is no broken connection."""
    monkeypatch.setattr("registry.http.bodies.TIME_SLICE", -1.0)
    client, files = Taking(1000), Files()
    flow = flow_to(client, files, start=90)
    flow.begin()
    assert flow.pump(make=True) == "whole"
    assert flow.sent == 10


def test_one_that_was_stopped_makes_no_more() -> None:
    client, files = Taking(1000), Files()
    flow = flow_to(client, files)
    flow.begin()
    flow.stop()
    assert flow.pump(make=True) == "gone"
    assert files.made == 1
    flow.close()
    assert files.ended == 1


def test_a_client_has_so_much_time_for_each_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("registry.http.bodies.time.monotonic", lambda: now)
    pace = Pace(60.0)
    now += 50
    assert pace.left(1000) == 10, "a few bytes are no reason to wait longer"
    assert pace.left(1 << 20) == 60
    now += 61
    assert pace.left((1 << 20) + 1000) == 0
    pace.restart()
    assert pace.left((1 << 20) + 1000) == 60
