"""Readiness where what the service stands on takes connections and does not answer.

With the database stopped, nobody is told where it is: neither with a token that was invented, nor on a page.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from registry.app import service_app
from registry.catalogue.database.database import Database
from registry.catalogue.database.errors import placeless
from registry.errors import CODES, UnavailableError
from registry.http import health
from registry.http.errors import problem
from registry.http.limits import Limits
from registry.schemas.protocol import API
from registry.services.local import LocalRegistry
from registry.storage.memory import MemoryDriver
from registry.storage.s3 import S3Driver, connection
from tests.kit.library import assert_problem, running
from tests.kit.servers import Postgres, S3Place
from tests.kit.shim import Asked, Fault, Shim

ASKED = 40  # times; more than the service has threads


@pytest.fixture
def shim(s3_store: S3Place) -> Iterator[Shim]:
    """The way from the service to its store."""
    with Shim(s3_store.endpoint) as shim:
        yield shim


@pytest.fixture
def team(private_postgres: Postgres, s3_store: S3Place, shim: Shim, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a service with few threads."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**s3_store.environ, "AWS_ENDPOINT_URL": shim.url}.items():
        monkeypatch.setenv(name, value)
    url = private_postgres.database()
    database = Database(url)
    database.prepare()
    database.dispose()
    registry, limits = LocalRegistry.of(url, S3Driver(s3_store.url)), Limits(threads=4)
    with running(service_app(registry, "read", limits), limits) as address:
        yield address
    registry.close()


@contextlib.contextmanager
def silent(process: psutil.Process) -> Iterator[None]:
    """A server that keeps its connections, and does nothing."""
    stopped = [process, *process.children(recursive=True)]
    for one in stopped:
        one.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for one in stopped:
            one.send_signal(signal.SIGCONT)


def ask(address: str, path: str) -> socket.socket:
    """A request whose answer is read later."""
    place = urlsplit(address)
    wire = socket.create_connection((place.hostname, place.port or 0), timeout=120)
    wire.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    return wire


def test_a_store_that_does_not_answer_takes_no_thread_of_others(
    team: str, shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PING_READ_TIMEOUT", 30)
    monkeypatch.setattr(health, "_TIMEOUT", 30.0)
    answering = threading.Event()

    def late(_asked: Asked) -> tuple[int, bytes]:
        answering.wait(120)
        return 200, b""

    shim.faults = [Fault(method="HEAD", answer=late)]
    with contextlib.ExitStack() as wires:
        polls = [wires.enter_context(ask(team, "/readyz")) for _ in range(ASKED)]
        for path in ("/metrics", f"{API}/tree"):
            assert httpx.get(f"{team}{path}", timeout=120).status_code == 200
        answering.set()
        assert {poll.recv(12) for poll in polls} == {b"HTTP/1.1 200"}
    assert len(shim.seen("HEAD")) < 4, "each asked for itself"


@pytest.mark.slow
def test_a_database_that_does_not_answer_is_named(
    team: str, private_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert httpx.get(f"{team}/readyz", timeout=60).status_code == 200  # over a connection that stays open
    monkeypatch.setattr(health, "_TIMEOUT", 3.0)  # more than the store takes, on a busy machine too
    assert private_postgres.process is not None
    with silent(psutil.Process(private_postgres.process.pid)):
        for _ in range(ASKED):
            told = assert_problem(httpx.get(f"{team}/readyz", timeout=120), 503, "unavailable")
            assert "database" in told["detail"]
            assert "store" not in told["detail"]
        assert httpx.get(f"{team}/healthz", timeout=120).status_code == 200
    deadline = time.monotonic() + 120
    while (status := httpx.get(f"{team}/readyz", timeout=120).status_code) != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status == 200


SAID: Final = "The database of this registry can't be reached or used now: try again; the service's log says why."
ADDRESSES: Final = (
    "/api/v1/tree",
    "/api/v1/whoami",
    "/api/v1/revisions?ref=net",
    "/hf/api/models/net",
    "/hf/api/models",
    "/hf/net/_/resolve/main/config.json",
    "/net",
    "/",
)


@pytest.fixture
def service() -> Iterator[str]:
    with (
        LocalRegistry.of("postgresql://ann:geheim@127.0.0.1:1/weights", MemoryDriver()) as registry,
        running(service_app(registry)) as address,
    ):
        yield address


def test_an_outage_tells_strangers_nothing(service: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for headers in ({"Authorization": "Bearer reg_invented"}, {"Cookie": "registry=reg_invented"}, {}):
        for address in ADDRESSES:
            answer = httpx.get(f"{service}{address}", headers=headers)
            told = f"{answer.text}{answer.headers}"
            assert not [word for word in ("ann", "127.0.0.1:1/", "port 1", "weights", "psycopg") if word in told]
            if "Authorization" in headers and "/api/v1" in address:
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                assert answer.json()["detail"] == SAID
    assert "postgresql://ann@127.0.0.1:1/weights can't be reached" in caplog.text
    assert "geheim" not in caplog.text


def test_every_code_of_a_database_has_a_sentence_without_a_place() -> None:
    for code in CODES:
        told = problem(placeless(UnavailableError("at 127.0.0.1", code=code)))
        assert told.detail.startswith(("The database of this registry", "There is no space left for the database"))
        assert told.code == code
