"""Lookups and publishes a second of a running service, with PostgreSQL and S3 behind it.

A publish here is a whole one: the plan, the check of what is stored, the commit. Its bytes are there already.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peer_server, synthetic
from benchmarks.peer_server import PeerServer, cpu_seconds
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from benchmarks.service import Servers, servers
from benchmarks.service_race import ROOT, Work, race
from tests.kit import servers_home
from tests.kit.servers import Postgres, S3Server
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess, create_token

EACH = 10
LOOKUPS = {"lookup, 1 reader": 1, "lookup, 8 readers": 8}
PUBLISH = "publish, 8 writers"
WORKERS = ("the service", "PostgreSQL", "the S3 server", "the clients")
RACES = {**{name: ("looker", count) for name, count in LOOKUPS.items()}, PUBLISH: ("publisher", 8)}


@dataclass(frozen=True)
class Address:
    """Where a service is and with which token; as one word, for the processes of a race."""

    url: str
    token: str

    @classmethod
    def parse(cls, word: str) -> Address:
        return cls(*word.split(" "))

    def __str__(self) -> str:
        return f"{self.url} {self.token}"


def start(home: Home, database_url: str, s3: S3Server, until: ExitStack) -> tuple[Address, int]:
    """A new service on a database that has its schema, and on a new bucket, and its process; it ends with ``until``."""
    store = s3.place()
    settings = {"REGISTRY_DATABASE_URL": database_url, "REGISTRY_STORE_URL": store.url, **store.environ}
    token = create_token(database_url)  # before the start: a service that nobody may use does not start
    service = ServiceProcess.started(home, settings)
    until.callback(service.close)
    return Address(service.url, token), service.process.pid


def looker(word: str, number: int, revisions: int) -> Work:
    """Ask which revision a tag of some adapter means."""
    import httpx

    address, chance = Address.parse(word), random.Random(number)
    client = httpx.Client(base_url=address.url, headers={"Authorization": f"Bearer {address.token}"}, trust_env=False)

    def work() -> None:
        ref = f"bench/a{chance.randrange(revisions // EACH):06d}@prod"
        client.get("/api/v1/resolve", params={"ref": ref}).raise_for_status()

    return work


def publisher(word: str, number: int, revisions: int) -> Work:
    """Publish stored bytes as an adapter of a new name."""
    from registry import connect

    del revisions
    address = Address.parse(word)
    remote, folder, turn = connect(address.url, address.token), _adapter(), 0

    def work() -> None:
        nonlocal turn
        turn += 1
        remote.publish(folder, f"tiny/w{number}-{random.getrandbits(64):016x}")

    return work


def _cache() -> Path:
    return ROOT / "benchmarks" / "results" / "service-tiny"


def _adapter() -> Path:
    return synthetic.adapter(_cache(), synthetic.TINY, seed=1)


def rows(run: Conditions) -> Iterator[Row]:
    """Lookups beside MLflow's server on a database of the same size; publishes, whose goal is three times what was."""
    from registry import connect

    revisions, seconds, runs = (100, 0.3, 1) if run.quick else (10_000, 5.0, run.runs(3))
    with servers(run) as found:
        url = found.postgres.database()
        _fill(sys.executable, "service_ours", url, revisions)
        address, pid = start(found.home, url, found.s3, found.until)
        with closing(connect(address.url, address.token)) as remote:
            remote.add_base("tiny", synthetic.base_model(_cache(), synthetic.TINY))
            remote.publish(_adapter(), "tiny/first")
        sides = {name: ("service_http", action, str(address), count, pid) for name, (action, count) in RACES.items()}
        if run.python is not None:
            peer = _mlflow(found, run.python, revisions)
            sides |= {
                f"MLflow, {name}": ("service_mlflow", "looker", peer.url, count, peer.pid)
                for name, count in LOOKUPS.items()
            }
        samples: dict[str, list[Sample]] = {name: [] for name in sides}
        for turn in range(runs):
            for name, (side, action, word, count, server) in sides.items():
                python = run.python or sys.executable if side == "service_mlflow" else sys.executable
                pids = (server, _pid(found.postgres), _pid(found.s3))
                before = [cpu_seconds(one) for one in pids]
                sample = race(side, action, word, revisions, count=count, seconds=seconds, python=python)
                spent = [(cpu_seconds(one) - first) / sample["count"] for one, first in zip(pids, before, strict=True)]
                parts = dict(zip(WORKERS, [*spent, sample["cpu"]], strict=True))
                samples[name].append({**sample, **parts, "cpu": spent[0]})  # of the server, not of its clients
                sys.stderr.write(f"  run {turn + 1}, HTTP, {name}: {sample['rate']:.0f}/s\n")
    yield from _rows(samples)


def _rows(samples: Mapping[str, list[Sample]]) -> Iterator[Row]:
    for name, values in samples.items():
        if name in RACES:
            beside = samples.get(f"MLflow, {name}")
            for field, unit in (("rate", "/s"), ("p99", "ms")):
                peer = None if beside is None else Peer("MLflow 3's server", Figure.of(beside, field))
                goal = Goal("at least", 84, of="figure") if (name, field) == (PUBLISH, "rate") else None
                told = f"{name} over HTTP, PostgreSQL and S3"
                yield Row(
                    told if field == "rate" else f"{told}: 99th percentile", Figure.of(values, field), unit, peer, goal
                )
            if name == PUBLISH:
                yield from _parts(values)
            if failed := sum(sample["failed"] for sample in values):
                yield Row(f"{name}: failed", Figure(failed), "", goal=Goal("at most", 0, of="figure"))


def _pid(server: Postgres | S3Server) -> int:
    assert server.process is not None
    return server.process.pid


def _parts(samples: list[Sample]) -> Iterator[Row]:
    """What one publish costs each process, and what two cores could do at most if the service cost nothing."""
    for who in WORKERS:
        yield Row(f"  CPU of a publish: {who}", Figure.of([{who: one[who]} for one in samples], who, scale=1000), "ms")
    cores = os.cpu_count() or 1
    others = [{"rate": cores / sum(sample[who] for who in WORKERS[1:])} for sample in samples]
    yield Row(f"  rate at which the others alone fill {cores} cores", Figure.of(others, "rate"), "/s")


def _fill(python: str, side: str, url: str, revisions: int) -> None:
    subprocess.run([python, "-m", f"benchmarks.{side}", url, "0", str(revisions)], cwd=ROOT, check=True)


def _mlflow(found: Servers, python: str, revisions: int) -> PeerServer:
    """MLflow's server, with as many workers as there are cores, on a database of its own."""
    url, port = found.postgres.database(), servers_home.free_port()
    _fill(python, "service_mlflow", url, revisions)
    command = [python, "-m", "mlflow", "server", "--backend-store-uri", url, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", str(os.cpu_count() or 1)]
    return found.until.enter_context(peer_server.running(found.home, command, port, "health"))
