"""A team's registry in which everything can fail: replicas, PostgreSQL and S3, with a proxy before each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import psycopg

import registry
from registry.catalogue.database.database import Database
from registry.client.errors import RetryPolicy
from registry.client.remote import RemoteRegistry
from registry.folders.staging import FetchCache
from tests.journeys.fault_wire import Wire
from tests.kit import Base, plain_base, write_adapter
from tests.kit.servers import Postgres, S3Place, S3Server, postgres_url
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess, clean_environ, create_token
from tests.kit.shim import Asked, Shim

REGISTRY = str(Path(sys.executable).with_name("registry"))
PATIENCE = 120.0
IMPATIENT = RetryPolicy(known=1.0, unknown=1.0)
OF_CLIENTS = "X-Amz-Signature="
"""In the targets of requests to the store that were signed for a client."""


class Proxy(Shim):
    """A shim that can be asked while requests are under way."""

    def count(self, method: str, target: str, *, status: int | None = None) -> int:
        """How many requests of this kind have ended."""
        with self._lock:
            ended = [one for one in self._seen if one.method == method and re.search(target, one.target) is not None]
        return sum(status in {None, one.status} for one in ended)


@dataclass
class House:
    """All of it. Clients are given `api`, which leads to the replica that `lead_to` says."""

    home: Home
    postgres: Postgres
    wire: Wire
    s3: S3Server
    place: S3Place
    store: Proxy  # between S3 and everybody
    api: Proxy  # between the clients and a replica
    settings: dict[str, str]
    replicas: list[ServiceProcess]
    token: str
    room: Path
    base: Base
    database: str  # as the services name it, but past the wire
    _clients: ExitStack = field(default_factory=ExitStack)

    def start_both(self) -> None:
        """Let two replicas run: most tests need one, and some kill one."""
        for replica in [replica for replica in self.replicas if not replica.running]:
            replica.close()
            self.replicas.remove(replica)
        while len(self.replicas) < 2:
            self.replicas.append(ServiceProcess.started(self.home, self.settings))

    def kill_the_replica(self) -> None:
        """Kill the replica that the clients are at. New requests go to the other, as a load balancer has it."""
        used, other = sorted(self.replicas, key=lambda replica: replica.url != self._url)
        used.kill()
        self.lead_to(other)

    @property
    def _url(self) -> str:
        return "http://{}:{}".format(*self.api.server)

    def lead_to(self, replica: ServiceProcess) -> None:
        """Let new requests go to that replica."""
        address = urlsplit(replica.url)
        self.api.server = (address.hostname or "", address.port or 0)

    def client(self) -> RemoteRegistry:
        """What `registry.connect` gives, new each time: a program that was just started."""
        client = cast(RemoteRegistry, registry.connect(self.api.url, self.token))
        self._clients.callback(client.close)
        return client

    def impatient(self) -> RemoteRegistry:
        """The same, and it waits for a second where others wait for a minute and a half."""
        cache = FetchCache(self.room / "impatient")
        client = RemoteRegistry(self.api.url, self.token, cache=cache, retry=IMPATIENT)
        self._clients.callback(client.close)
        return client

    def command(self, *words: str) -> tuple[int, str]:
        """Run a command line; its exit status and what it wrote to stderr."""
        folders = {f"XDG_{name}_HOME": str(self.room / name.lower()) for name in ("CONFIG", "DATA", "CACHE")}
        settings = clean_environ({**folders, "REGISTRY_URL": self.api.url, "REGISTRY_TOKEN": self.token})
        done = subprocess.run(
            [REGISTRY, *words], env=settings, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        return done.returncode, done.stderr

    def adapter(self, name: str, *, extra: int = 0) -> Path:
        """An adapter whose bytes nobody else has, with a further file of so many bytes."""
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        folder = write_adapter(self.room / name, self.base, ["a"], r=2, seed=seed)
        if extra:
            (folder / "notes.dat").write_bytes(os.urandom(extra))
        return folder

    def check_is_published(self, folder: Path, path: str, numbers: tuple[int, ...] = (1,)) -> None:
        """One revision a publish, the newest has the bytes of ``folder``, and nothing anywhere is damaged."""
        client = self.client()
        found = tuple(sorted(one.number for one in client.log(path).revisions))
        assert found == numbers, found
        out = self.room / f"out-{time.monotonic_ns()}"
        client.fetch(path, out, kind="published")
        for file in folder.iterdir():
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name
        self.check_is_whole()

    def check_is_whole(self) -> None:
        """Every row has its blob, and every blob its bytes."""
        checked = self.client().fsck(deep=True)
        assert checked.damage == (), checked.damage
        assert checked.blobs > 0

    def check_is_absent(self, path: str) -> None:
        """Nothing of a publish that was refused can be seen."""
        client = self.client()
        assert all(one.path != path for one in client.search().revisions)
        assert path not in client.tree().model_dump_json()

    def let_time_pass(self) -> None:
        """The leases of operations have run out, as they do a minute after their holder was killed."""
        with psycopg.connect(self.database.replace("+psycopg", ""), autocommit=True) as session:
            ended = session.execute("UPDATE operations SET lease_until = now() - interval '1 second'")
            assert ended.rowcount > 0

    def mend(self) -> None:
        """Let servers run and no fault be left."""
        self._clients.close()
        self.store.faults.clear()
        self.api.faults.clear()
        self.wire.cuts.clear()
        if self.postgres.process is None:
            self.postgres.start()
        if self.s3.process is None:
            self.s3.start()
        self.store.forget()
        self.api.forget()
        self.lead_to(next(replica for replica in self.replicas if replica.running))


@contextmanager
def built(home: Home, room: Path) -> Iterator[House]:
    """A house with a base model of the name ``net``, and one replica."""
    with ExitStack() as stack:
        postgres = Postgres.started(home)
        stack.callback(postgres.close)
        s3 = S3Server.started(home)
        stack.callback(s3.close)
        database, place = postgres.database(), s3.place()
        wire = stack.enter_context(Wire(postgres.port))
        store = Proxy(place.endpoint)
        stack.enter_context(store)
        settings = {
            "REGISTRY_DATABASE_URL": postgres_url(wire.port, database.rpartition("/")[2]),
            "REGISTRY_STORE_URL": place.url,
            "REGISTRY_GC_GRACE": "0s",
            **place.environ,
            "AWS_ENDPOINT_URL": store.url,
        }
        catalogue = Database(database)
        catalogue.prepare()
        catalogue.dispose()
        token = create_token(database)
        replicas: list[ServiceProcess] = []

        def close() -> None:
            for replica in replicas:
                replica.close()

        stack.callback(close)
        replicas.append(ServiceProcess.started(home, settings))
        api = Proxy(replicas[0].url)
        stack.enter_context(api)
        base = plain_base(room / "base", {"a.weight": (24, 16)})
        house = House(home, postgres, wire, s3, place, store, api, settings, replicas, token, room, base, database)
        client = house.client()
        client.add_base("net", base.folder)
        client.publish(house.adapter("first"), "net/first")  # all further ones have its configuration
        house.mend()
        yield house
        house.mend()


class Gate:
    """An answer of a server that does not come before `let_go`; then it is one that is tried again."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, asked: Asked) -> tuple[int, bytes]:
        del asked
        self.entered.set()
        self._open.wait(PATIENCE)
        return 503, b""

    def wait(self) -> None:
        """Until somebody waits for the answer."""
        assert self.entered.wait(PATIENCE), "nobody came"

    def let_go(self) -> None:
        """Answer."""
        self._open.set()


def wait_for(condition: Callable[[], bool]) -> None:
    """Until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def problem_of(stderr: str) -> tuple[str, str]:
    """Code and sentence of the error that a command with ``--json`` ended with; empty where it had none."""
    document = json.loads(stderr.splitlines()[-1]) if stderr else {"code": "", "message": ""}
    return document["code"], document["message"]
