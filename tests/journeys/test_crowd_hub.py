"""Crowds at the views of merged models: nobody starves, and nothing is left of those that went away.

The service is a process; its memory, files and work are looked at from outside.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from tests.journeys.fault_hub import (
    CACHE,
    MIB,
    PATIENCE,
    Models,
    Watched,
    part,
    reading,
    received,
    rest,
    wait_until,
    watched,
)
from tests.kit.servers_home import Home

pytestmark = pytest.mark.slow
SEATS = 4


@pytest.fixture(scope="module")
def folder_service(models: Models, own_home: Home) -> Iterator[Watched]:
    """Of a registry in a folder, with little memory; a client is cut after six seconds."""
    service = watched(
        own_home,
        {"REGISTRY_URL": str(models.registry), "REGISTRY_CACHE": str(CACHE)},
        limits={"stall_time": 6.0, "queue_time": 3.0},
    )
    yield service
    service.process.close()


def answered(address: str, start: int, length: int) -> tuple[int, bytes, str | None]:
    """Status, bytes and Retry-After of a range; raises what breaks in the middle."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
    try:
        connection.request("GET", parts.path, headers={"Range": f"bytes={start}-{start + length - 1}"})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("Retry-After")
    finally:
        connection.close()


def seats_are_free(address: str) -> bool:
    """Whether as many clients as there are seats have each a body under way at the same time."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(reading(address)) for _ in range(SEATS)]
        return all(client.recv(12) == b"HTTP/1.1 200" for client in clients)


@pytest.mark.long_on("8")
@pytest.mark.parametrize("paths", [1, 8])
def test_two_hundred_clients(folder_service: Watched, models: Models, paths: int) -> None:
    """Each has the right bytes or is told to come again; the service is soon as it was."""
    service, start, length = folder_service, 14 * MIB, 8 * MIB
    addresses = [service.address(f"p{n}") for n in range(paths)]
    expected = [models.merged(f"p{n}", start, start + length) for n in range(paths)]
    for address in addresses:
        part(address, 0)  # all plans are open
    time.sleep(0.5)
    before, files = service.memory("VmRSS"), service.files()
    gate = threading.Barrier(200)

    def one(number: int) -> tuple[int, bool, str | None]:
        gate.wait()
        status, data, retry = answered(addresses[number % paths], start, length)
        return status, data == expected[number % paths], retry

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(one, range(200)))
    print(f"{paths} paths: {sum(status == 206 for status, _, _ in answers)} served")
    for status, right, retry in answers:
        assert (status, right, retry) == (206, True, None) or (status, right, retry) == (429, False, "1")
    assert sum(status == 206 for status, _, _ in answers) >= SEATS
    print(f"memory {before / MIB:.0f} -> at most {service.memory() / MIB:.0f} MiB, files {files} -> {service.files()}")
    assert service.memory() - before < CACHE + 64 * MIB * SEATS
    wait_until(lambda: service.files() <= files, "files stay open")
    assert part(addresses[0], start).content == expected[0][:1000]
    assert seats_are_free(addresses[0])


@pytest.mark.long
def test_equal_requests_at_once_are_computed_once(models: Models, own_home: Home) -> None:
    service = watched(own_home, {"REGISTRY_URL": str(models.registry)})
    try:
        address, whole = service.address("p0"), models.merged("p0")
        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(lambda _: received(address) == (whole, True), range(6)))
        once = service.metric("registry_cache_misses", kind="piece")
        assert once > 0
        assert received(service.address("p1"))[1]  # as many pieces, asked for by one
        assert service.metric("registry_cache_misses", kind="piece") == 2 * once
    finally:
        service.process.close()


# ------------------------------------------------------------------ slow clients, and those that leave


@pytest.mark.long
def test_clients_that_read_nothing_or_little_keep_nobody(folder_service: Watched, models: Models) -> None:
    """More of them than there are seats; they are cut after a while, whoever reads is served at once."""
    service, addresses = folder_service, [folder_service.address(f"p{number}") for number in range(3)]
    for address in addresses:
        part(address, 0)  # all plans are open
    time.sleep(0.5)
    files, before = service.files(), service.memory("VmRSS")
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(SEATS + 2):
            clients.append(stack.enter_context(reading(addresses[0])))
            assert clients[-1].recv(12) == b"HTTP/1.1 200"
            time.sleep(0.4)  # it takes no more, and nobody waits for its seat yet
        work = service.seconds()
        for number in range(3):
            start = (20 + number) * MIB
            assert part(addresses[number], start).content == models.merged(f"p{number}", start, start + 1000)
            assert all(len(client.recv(1)) == 1 for client in clients)
            time.sleep(0.2)
        assert service.seconds() - work < 3.0  # nothing is computed for who does not read
        wait_until(lambda: service.files() <= files, "slow clients are not cut")
        for client in clients:
            with pytest.raises(ConnectionResetError):  # broken, and no end
                _drain(client)
    assert service.memory() - before < CACHE + 64 * MIB * SEATS
    assert seats_are_free(address)


def _drain(client: socket.socket) -> None:
    while client.recv(MIB):
        pass


def test_work_ends_when_its_clients_leave(folder_service: Watched, models: Models) -> None:
    """Those with a seat, and those that wait for one: nobody comes too late for them."""
    service, addresses = folder_service, [folder_service.address(f"p{number}") for number in range(8)]
    for address in addresses:
        part(address, 0)  # all plans are open
    wait_until(lambda: seats_are_free(address), "seats are not free")
    time.sleep(0.5)
    files = service.files()
    with contextlib.ExitStack() as stack:
        for number in range(30):
            stack.enter_context(reading(addresses[number % 8]))
    wait_until(lambda: service.files() <= files, "files stay open")
    time.sleep(0.5)
    work = service.seconds()
    time.sleep(1.0)
    assert service.seconds() - work < 0.3
    assert seats_are_free(address)


# ------------------------------------------------------------------ the end of the service


@pytest.mark.long
def test_a_service_that_ends_lets_its_bodies_end(models: Models, own_home: Home) -> None:
    service = watched(own_home, {"REGISTRY_URL": str(models.registry)}, limits={"stop_time": 3.0})
    try:
        address, whole = service.address("p0"), models.merged("p0")
        with reading(address, 0) as reader, reading(service.address("p1"), 0) as sleeper:
            assert reader.recv(12) == sleeper.recv(12) == b"HTTP/1.1 206"
            service.process.process.terminate()
            assert rest(reader, len(whole)) == whole
            assert service.process.process.wait(PATIENCE) == 0  # the sleeper was not waited for
            with contextlib.suppress(ConnectionResetError):
                got = 0
                while piece := sleeper.recv(MIB):
                    got += len(piece)
                assert got < len(whole)
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)
    finally:
        service.process.close()
