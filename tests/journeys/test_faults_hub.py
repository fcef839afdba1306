"""Faults under the views of merged models: nothing wrong and nothing short is taken for whole, and nobody starves.

The service is a process; its memory, files and work are looked at from outside.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

import registry
from registry.catalogue.database import Database
from tests.journeys.fault_hub import FILE, MIB, PATIENCE, Models, Watched, reading, wait_until, watched
from tests.kit.servers import NO_ETAGS, Postgres, S3Place, S3Server
from tests.kit.servers_home import Home
from tests.kit.servers_service import clean_environ, create_token
from tests.kit.shim import Asked, Fault, Shim, flip_first_byte

pytestmark = pytest.mark.slow
OWN = r"/blobs/[^?]*$"
SEATS = 4
CACHE = 32 * MIB


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models.made(tmp_path_factory.mktemp("models"), 8)


@pytest.fixture(scope="module")
def folder_service(models: Models, own_home: Home) -> Iterator[Watched]:
    """Of a registry in a folder, with little memory; a client is cut after three seconds."""
    service = watched(
        own_home, {"REGISTRY_URL": str(models.registry), "REGISTRY_CACHE": str(CACHE)}, limits={"stall_time": 3.0}
    )
    yield service
    service.process.close()


@dataclass
class Stored:
    """A service over PostgreSQL and S3, with a proxy before the store."""

    service: Watched
    postgres: Postgres
    s3: S3Server
    place: S3Place
    store: Shim
    settings: dict[str, str]

    def blob_of_base(self) -> Path:
        """The file in which the store keeps the weights of the base model."""
        return largest(self.place.folder)


@pytest.fixture(scope="module")
def shared_store(models: Models, own_home: Home) -> Iterator[Stored]:
    with contextlib.ExitStack() as stack:
        postgres, s3 = Postgres.started(own_home), S3Server.started(own_home, NO_ETAGS)
        stack.callback(postgres.close)
        stack.callback(s3.close)
        place, database = s3.place(), postgres.database()
        store = stack.enter_context(Shim(place.endpoint))
        catalogue = Database(database)
        catalogue.prepare()
        catalogue.dispose()
        settings = {
            "REGISTRY_DATABASE_URL": database,
            "REGISTRY_STORE_URL": place.url,
            "REGISTRY_CACHE": str(CACHE),
            **place.environ,
            "AWS_ENDPOINT_URL": store.url,
        }
        token = create_token(database)
        service = watched(own_home, settings, "--anonymous", "read")
        stack.callback(service.process.close)
        with contextlib.closing(registry.connect(service.url, token)) as client:
            models.publish(client)
        yield Stored(service, postgres, s3, place, store, settings)


@pytest.fixture
def stored(shared_store: Stored) -> Iterator[Stored]:
    yield shared_store
    shared_store.store.faults.clear()
    if shared_store.s3.process is None:
        shared_store.s3.start()
    if shared_store.postgres.process is None:
        shared_store.postgres.start()


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(file: Path, at: int) -> None:
    """Change a byte where it lies."""
    file.chmod(0o644)
    with file.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


def received(address: str) -> tuple[bytes, bool]:
    """What a client got of a file, and whether it looks whole to it."""
    got = bytearray()
    with httpx.stream("GET", address, timeout=PATIENCE) as answer:
        assert answer.status_code == 200, answer.read()
        assert "transfer-encoding" not in answer.headers  # its clean end would look whole
        try:
            for piece in answer.iter_raw():
                got += piece
        except httpx.RemoteProtocolError:
            return bytes(got), False
    return bytes(got), True


def part(address: str, start: int, length: int = 1000) -> httpx.Response:
    return httpx.get(address, headers={"Range": f"bytes={start}-{start + length - 1}"}, timeout=PATIENCE)


PROGRAM = """
import sys
from huggingface_hub import hf_hub_download
print(hf_hub_download(*sys.argv[1:3], revision=sys.argv[3]))
"""


def download(service: Watched, home: Path, path: str = "p0", revision: str = "main") -> Path | str:
    """With the Hub's own client, in a process and a home of its own: the file, or what it said when it failed."""
    settings = {"HF_ENDPOINT": f"{service.url}/hf", "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    words = [sys.executable, "-c", PROGRAM, f"net/{path}", FILE, revision]
    done = subprocess.run(
        words, env=clean_environ(settings), capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    return done.stderr if done.returncode else Path(done.stdout.strip())


# ------------------------------------------------------------------ the store, in the middle of a body


def the_store_is_gone(stored: Stored) -> list[Fault]:
    def gone(_: Asked) -> tuple[int, bytes]:
        if stored.s3.process is not None:
            stored.s3.stop()
        return 503, b""

    return [Fault("GET", OWN, times=2), Fault("GET", OWN, times=1, answer=gone)]


def the_store_cuts(_: Stored) -> list[Fault]:
    return [Fault("GET", OWN, times=2), Fault("GET", OWN, cut_answer=100_000)]


def the_store_lies(_: Stored) -> list[Fault]:
    return [Fault("GET", OWN, times=2), Fault("GET", OWN, change_answer=flip_first_byte)]


@pytest.mark.parametrize("fault", [the_store_is_gone, the_store_cuts, the_store_lies])
def test_a_body_that_can_not_go_on_is_broken(
    stored: Stored, models: Models, tmp_path: Path, fault: Callable[[Stored], list[Fault]]
) -> None:
    """The client knows that it is short, its start is right, and a client of the Hub keeps nothing of it."""
    whole, address = models.merged("p0"), stored.service.address("p0")
    assert int(httpx.head(address).headers["content-length"]) == len(whole)
    for _ in range(2):
        stored.store.faults[:] = fault(stored)
        got, ended_well = received(address)
        assert not ended_well
        assert 0 < len(got) < len(whole)
        assert whole.startswith(got)
        if stored.s3.process is None:
            stored.s3.start()
    stored.store.faults[:] = fault(stored)
    said = download(stored.service, tmp_path / "home")
    assert isinstance(said, str), said
    assert [file for file in (tmp_path / "home").rglob("*") if file.is_file() and file.stat().st_size > MIB] == []
    if stored.s3.process is None:
        stored.s3.start()
    stored.store.faults.clear()
    found = download(stored.service, tmp_path / "home")
    assert isinstance(found, Path), found
    assert found.read_bytes() == whole


def test_a_client_of_the_hub_resumes_when_the_store_is_back(stored: Stored, models: Models, tmp_path: Path) -> None:
    stored.store.faults[:] = [
        Fault("GET", OWN, times=4),
        Fault("GET", OWN, times=1, change_answer=flip_first_byte),
        Fault("GET", OWN, times=1, delay=3.0),
    ]
    found = download(stored.service, tmp_path / "home")
    assert isinstance(found, Path), found
    assert found.read_bytes() == models.merged("p0")
    assert [fault.times for fault in stored.store.faults] == [0, 0, 0]


def test_a_store_that_is_slow_in_the_middle_is_waited_for(stored: Stored, models: Models) -> None:
    stored.store.faults[:] = [Fault("GET", OWN, times=2), Fault("GET", OWN, times=2, delay=2.0)]
    assert received(stored.service.address("p0")) == (models.merged("p0"), True)
    assert [fault.times for fault in stored.store.faults] == [0, 0]


# ------------------------------------------------------------------ a damaged base model


@pytest.fixture
def in_folder(models: Models, own_home: Home, tmp_path: Path) -> Iterator[tuple[Watched, Path]]:
    """A service of a copy of the registry, and the file in it that holds the base model's weights."""
    copy = shutil.copytree(models.registry, tmp_path / "registry")
    service = watched(own_home, {"REGISTRY_URL": str(copy), "REGISTRY_CACHE": str(CACHE)})
    yield service, largest(copy)
    service.process.close()


@pytest.fixture
def in_store(stored: Stored) -> tuple[Watched, Path]:
    """The same of the store."""
    return stored.service, largest(stored.place.folder)


@pytest.mark.parametrize("where", ["in_folder", "in_store"])
def test_a_damaged_base_model(request: pytest.FixtureRequest, models: Models, tmp_path: Path, where: str) -> None:
    """What a damaged block touches is refused, all else goes on; once it is repaired, nothing of it remains."""
    service, blob = request.getfixturevalue(where)
    whole, at = models.merged("p0"), 40 * MIB  # in the middle of c, which the adapters change
    sound = shutil.copy(blob, tmp_path / "sound")
    address = service.address("p0")
    assert part(address, 8 * MIB).content == whole[8 * MIB : 8 * MIB + 1000]  # its plan is open now
    flip(blob, at)
    for path in ("p0", "p1"):
        damaged = part(service.address(path), at - 500)
        assert damaged.status_code == 500
        assert "x-error-code" not in damaged.headers  # it is not missing
        assert "is damaged" in damaged.headers["x-error-message"] == damaged.json()["error"]
    for start in (0, 8 * MIB, at + 12 * MIB, len(whole) - 1000):  # not of the piece that is made together
        answer = part(address, start)
        assert (answer.status_code, answer.content) == (206, whole[start : start + 1000])
    got, ended_well = received(address)
    assert not ended_well
    assert MIB < len(got) <= at
    assert whole.startswith(got)
    config = service.address("p0", "config.json")
    assert httpx.get(config).status_code == 200
    assert httpx.get(config.replace("/hf/", "/hf-lora/").replace("config.json", "README.md")).status_code == 404
    os.replace(sound, blob)  # repaired by another file, as a backup is restored
    part(address, at - 500)  # who has the old file open finds out by reading it
    assert part(address, at - 500).content == whole[at - 500 : at + 500]
    assert received(address) == (whole, True)


# ------------------------------------------------------------------ many at once


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


def seats_are_free(service: Watched, address: str) -> bool:
    """Whether as many clients as there are seats have each a body under way at the same time."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(reading(address)) for _ in range(SEATS)]
        return all(client.recv(12) == b"HTTP/1.1 200" for client in clients)


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
        assert (status, right, retry) == (206, True, None) or (status, right, retry) == (503, False, "1")
    assert sum(status == 206 for status, _, _ in answers) >= 36  # seats and queue
    print(f"memory {before / MIB:.0f} -> at most {service.memory() / MIB:.0f} MiB, files {files} -> {service.files()}")
    assert service.memory() - before < CACHE + 64 * MIB * SEATS
    wait_until(lambda: service.files() <= files, "files stay open")
    assert part(addresses[0], start).content == expected[0][:1000]
    assert seats_are_free(service, addresses[0])


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


def test_clients_that_read_nothing_or_little_keep_nobody(folder_service: Watched, models: Models) -> None:
    """More of them than there are seats; they are cut after a while, whoever reads is served at once."""
    service, address = folder_service, folder_service.address("p0")
    part(address, 0)
    time.sleep(0.5)
    files, before = service.files(), service.memory("VmRSS")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(reading(address)) for _ in range(3 * SEATS)]
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
        work = service.seconds()
        for number in range(3):
            assert part(service.address(f"p{number}"), 20 * MIB).content == models.merged(f"p{number}")[20 * MIB :][:1000]
            assert all(len(client.recv(1)) == 1 for client in clients)
            time.sleep(0.2)
        assert service.seconds() - work < 3.0  # nothing is computed for who does not read
        wait_until(lambda: service.files() <= files + 8, "slow clients are not cut")
        for client in clients:
            with pytest.raises(ConnectionResetError):  # broken, and no end
                while client.recv(MIB):
                    pass
    assert service.memory() - before < CACHE + 64 * MIB * SEATS
    assert seats_are_free(service, address)


def test_work_ends_when_its_clients_leave(folder_service: Watched, models: Models) -> None:
    """Those with a seat, and those that wait for one: nobody comes too late for them."""
    service, addresses = folder_service, [folder_service.address(f"p{number}") for number in range(8)]
    for address in addresses:
        part(address, 0)  # all plans are open
    wait_until(lambda: seats_are_free(service, address), "seats are not free")
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
    assert seats_are_free(service, address)


# ------------------------------------------------------------------ replicas, the database, the end


def test_a_replica_with_another_arithmetic_sends_no_other_bytes(stored: Stored, own_home: Home) -> None:
    """A client that began at the other one is told why it can't go on here, and when to come again."""
    other = watched(own_home, stored.settings, "--anonymous", "read", FAULT_NUMERICS="another")
    try:
        begun = stored.service.address("p0")
        here = begun.replace(stored.service.url, other.url)
        assert other.address("p0") != here
        for method in ("HEAD", "GET"):
            answer = httpx.request(method, here, headers={"Range": "bytes=1000-"}, timeout=PATIENCE)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert "another arithmetic" in answer.headers["x-error-message"]
            assert len(answer.content) < 1000
        assert part(other.address("p0"), 1000).status_code == 206
        assert part(begun, 1000).status_code == 206
    finally:
        other.process.close()


def test_a_body_needs_no_database(stored: Stored, models: Models) -> None:
    service, whole = stored.service, models.merged("p0")
    address = service.address("p0")
    part(address, 0)
    with reading(address, 0) as client:
        assert client.recv(12) == b"HTTP/1.1 206"
        stored.postgres.stop()
        refused = httpx.get(address, timeout=PATIENCE)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "database" in refused.headers["x-error-message"]
        assert rest(client, len(whole)) == whole
    stored.postgres.start()
    wait_until(lambda: part(address, 1000).content == whole[1000:2000], "it does not work again")


def rest(client: socket.socket, size: int) -> bytes:
    """The body of an answer whose head has begun."""
    data = bytearray()
    while b"\r\n\r\n" not in data or len(data) - data.index(b"\r\n\r\n") - 4 < size:
        piece = client.recv(MIB)
        assert piece, f"it ended after {len(data)} bytes"
        data += piece
    return bytes(data[data.index(b"\r\n\r\n") + 4 :])


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
