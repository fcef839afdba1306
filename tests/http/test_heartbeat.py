"""A service tells of itself while it runs, and no longer than that."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from registry.app import service_app
from registry.catalogue.database.database import Database
from registry.catalogue.team import sessions
from registry.errors import UnavailableError
from registry.http.health import Heartbeat
from registry.schemas.jobs import Replica, ReplicaFigures
from registry.schemas.protocol import API
from registry.services.local import LocalRegistry
from registry.version import __version__
from tests.kit.library import running


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    opened = LocalRegistry.open(tmp_path)
    yield opened
    opened.close()


def test_a_service_has_a_row_as_long_as_it_runs(registry: LocalRegistry) -> None:
    assert registry.health().replicas == ()
    with running(service_app(registry, "open")) as address:
        until(lambda: registry.health().replicas != ())
        (told,) = httpx.get(f"{address}{API}/health").raise_for_status().json()["replicas"]
    replica = Replica.model_validate(told)
    assert (replica.host, replica.process, replica.worker) == (socket.gethostname(), os.getpid(), None)
    assert (replica.version, replica.answers) == (__version__, True)
    assert replica.figures.cache_budget == 2 << 30
    assert (replica.figures.bodies, replica.figures.jobs, replica.figures.cache_misses) == (0, 0, 0)
    assert registry.health().replicas == ()


def test_what_can_not_be_written_is_told_once_and_stops_nothing(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Then it is written again, once the database takes changes."""
    database, full = registry.deployment.database, threading.Event()
    change = Database.change
    tried = []

    def changing(self: Database, work: Callable[..., object]) -> object:
        tried.append(full.is_set())
        if full.is_set():
            raise UnavailableError("The disk is full.", code="disk_full")
        return change(self, work)

    full.set()
    monkeypatch.setattr(Database, "change", changing)
    monkeypatch.setattr(sessions, "BEAT", sessions.BEAT / 10_000)
    beating = Heartbeat(database, ReplicaFigures, 3)
    with caplog.at_level("INFO", "registry.http.health"):
        beating.start()
        until(lambda: len(tried) > 5)
    assert len([one for one in caplog.records if "The disk is full." in one.getMessage()]) == 1
    full.clear()
    until(lambda: [one.worker for one in registry.health().replicas] == [3])
    full.set()
    beating.close()  # its row stays, which is no error
    assert [one.worker for one in registry.health().replicas] == [3]
