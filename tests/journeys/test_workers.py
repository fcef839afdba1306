"""A service of two workers: on PostgreSQL and S3 jobs run once, and bodies end before the processes do."""

from __future__ import annotations

import contextlib
import http.client
import signal
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import create_engine, text

from registry import connect
from registry.schemas.protocol import API
from tests.journeys.fault_hub import PATIENCE, Models, Watched, reading, rest, watched
from tests.kit.servers import S3Place
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess, create_token
from tests.kit.servers_workers import answered_by, each_worker

pytestmark = pytest.mark.slow
StartService = Callable[..., ServiceProcess]
TWO = ("--workers", "2")


@pytest.mark.long_on("15")
@pytest.mark.parametrize("end", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_bodies_of_all_workers_end_before_the_service_does(
    models: Models, start_service: StartService, end: signal.Signals
) -> None:
    service = Watched(start_service({"REGISTRY_URL": str(models.registry)}, *TWO))
    address, whole = service.address("p0"), models.merged("p0")
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(reading(address, 0)) for _ in range(4)]
        for reader in readers:
            assert reader.recv(12) == b"HTTP/1.1 206"
        service.process.process.send_signal(end)
        _wait_until_nobody_listens(address)
        assert service.process.running
        for reader in readers:
            assert rest(reader, len(whole)) == whole
        assert service.process.process.wait(PATIENCE) == 0


@pytest.mark.long
def test_one_worker_uses_what_the_other_leaves_free(models: Models, own_home: Home) -> None:
    """All clients are connected to one of two: none is told that it is busy, until both would be."""
    limits = {"computed": 4, "queue": 4, "queue_time": PATIENCE}  # of the service: each has half
    service = watched(own_home, {"REGISTRY_URL": str(models.registry)}, *TWO, limits=limits)
    address = urlsplit(service.address("p0"))
    with contextlib.ExitStack() as stack:
        stack.callback(service.process.close)
        first: list[http.client.HTTPConnection] = []
        while len(first) < 9:
            wire = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
            stack.callback(wire.close)
            wire.request("GET", "/healthz")
            answer = wire.getresponse()
            answer.read()
            if answered_by(service.process, answer.headers["X-Request-Id"]) == 1:
                first.append(wire)
        for wire in first[:8]:
            wire.request("GET", address.path)
        assert [wire.getresponse().status for wire in first[:8]] == [200] * 8  # and nobody reads on
        first[8].request("GET", address.path)
        full = first[8].getresponse()
        assert (full.status, full.headers["Retry-After"]) == (429, "1")


def _wait_until_nobody_listens(address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            httpx.head(address, timeout=PATIENCE)
        except httpx.ConnectError:
            return
        except httpx.TransportError:
            pass  # it was in the queue of the socket
        time.sleep(0.05)
    raise AssertionError("the service still listens")


@pytest.mark.long
def test_jobs_run_once_on_postgresql_and_s3(
    models: Models, postgres_migrated_url: str, s3_store: S3Place, start_service: StartService
) -> None:
    """Each worker is handed as many as its neighbour, and each looks for what nobody does."""
    secret = create_token(postgres_migrated_url)
    settings = {"REGISTRY_DATABASE_URL": postgres_migrated_url, "REGISTRY_STORE_URL": s3_store.url, **s3_store.environ}
    service = start_service(settings, *TWO)
    with contextlib.closing(connect(service.url, secret)) as remote:
        models.publish(remote)
    with each_worker(service, 2, secret) as workers:
        asked = [
            worker.ask("POST", "/materialisations", {"ref": f"net/p{2 * turn + side}@1", "kind": "merged"})
            for turn in range(3)
            for side, worker in enumerate(workers)
        ]
        assert {status for status, _ in asked} <= {201, 202}
        for status, told in asked:
            if status == 202:
                _done(service, secret, told["id"])
        _, kept = workers[0].ask("GET", "/materialisations")
        assert sorted(one["reference"] for one in kept["items"]) == [f"net/p{number}@1" for number in range(6)]
    engine = create_engine(postgres_migrated_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT attempts FROM operations WHERE kind = 'materialise'"))
        attempts = [row.attempts for row in rows]
        events = connection.execute(text("SELECT count(*) FROM events WHERE action = 'materialise'")).scalar()
    engine.dispose()
    # Nobody took over what another one did: where one was begun a second time, the log says how the first ended.
    again = [line for line in service.log if " is retried: " in line or "could not be recorded" in line]
    assert (len(attempts), sum(attempts), events) == (6, 6 + len(again), 6), service.log[-50:]
    assert service.stop() == 0


def _done(service: ServiceProcess, secret: str, operation: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        told = httpx.get(
            f"{service.url}{API}/operations/{operation}",
            headers={"Authorization": f"Bearer {secret}"},
            timeout=PATIENCE,
        ).json()
        if told["state"] not in {"pending", "running"}:
            assert told["problem"] is None, told
            return told
        time.sleep(0.1)
    raise AssertionError(f"{operation} is not done")
