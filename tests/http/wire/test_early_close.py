"""A client that has all its bytes is done with them: that it closes the connection at once is no error."""

from __future__ import annotations

import threading

import pytest

from registry.http.request.limits import Limits
from registry.http.wire import bodies
from registry.http.wire.flow import Flow, State
from tests.http.wire.test_bodies import Source, opened, sending, zeros
from tests.kit.library import Lines, log, running

__all__ = ["log"]
SIZE = 300_000


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
