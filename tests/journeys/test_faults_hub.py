"""Faults under the views of merged models: nothing wrong and nothing short is taken for whole."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import registry
from registry.catalogue.database.database import Database
from tests.journeys.fault_hub import (
    CACHE,
    FILE,
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
from tests.kit.servers import NO_ETAGS, Postgres, S3Place, S3Server
from tests.kit.servers_home import Home
from tests.kit.servers_service import clean_environ, create_token
from tests.kit.shim import Asked, Fault, Shim, flip_first_byte

pytestmark = pytest.mark.slow
OWN = r"/blobs/[^?]*$"
GOOD = 3  # reads of the base that go well: its header, and what the first bytes are made of


@dataclass
class Stored:
    """A service over PostgreSQL and S3, with a proxy before the store."""

    service: Watched
    postgres: Postgres
    s3: S3Server
    place: S3Place
    store: Shim
    settings: dict[str, str]


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

    return [Fault("GET", OWN, times=GOOD), Fault("GET", OWN, times=1, answer=gone)]


def the_store_cuts(_: Stored) -> list[Fault]:
    return [Fault("GET", OWN, times=GOOD), Fault("GET", OWN, cut_answer=100_000)]


def the_store_lies(_: Stored) -> list[Fault]:
    return [Fault("GET", OWN, times=GOOD), Fault("GET", OWN, change_answer=flip_first_byte)]


@pytest.mark.parametrize(
    "fault", [the_store_is_gone, the_store_cuts, pytest.param(the_store_lies, marks=pytest.mark.long)]
)
def test_a_body_that_can_not_go_on_is_broken(
    stored: Stored, models: Models, tmp_path: Path, fault: Callable[[Stored], list[Fault]]
) -> None:
    """The client knows that it is short, its start is right, and a client of the Hub keeps nothing of it."""
    whole, address = models.merged("p0"), stored.service.address("p0")
    assert int(httpx.head(address).headers["content-length"]) == len(whole)
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
        Fault("GET", OWN, times=2, change_answer=flip_first_byte),  # what is wrong is read again
        Fault("GET", OWN, times=1, delay=3.0),
    ]
    found = download(stored.service, tmp_path / "home")
    assert isinstance(found, Path), found
    assert found.read_bytes() == models.merged("p0")
    assert [fault.times for fault in stored.store.faults] == [0, 0, 0]


@pytest.mark.long
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


@pytest.mark.long
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
    assert httpx.get(config.replace("/hf/", "/hf-lora/").replace("config.json", "nothing.md")).status_code == 404
    Path(sound).replace(blob)  # repaired by another file, as a backup is restored
    part(address, at - 500)  # who has the old file open finds out by reading it
    assert part(address, at - 500).content == whole[at - 500 : at + 500]
    assert received(address) == (whole, True)


# ------------------------------------------------------------------ another replica, and the database


@pytest.mark.long
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
