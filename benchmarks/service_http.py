"""Lookups and publishes a second of a running service, with PostgreSQL and S3 behind it.

A publish here is a whole one: the plan, the check of what is stored, the commit. Its bytes are there already.
"""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import running, synthetic
from benchmarks.running import Figure, Sample
from benchmarks.service_race import ROOT, Work, race
from tests.kit.servers import Postgres, S3Server
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess, create_token

EACH = 10
RACES = {"lookup, 1 reader": ("looker", 1), "lookup, 8 readers": ("looker", 8), "publish, 8 writers": ("publisher", 8)}


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


def start(home: Home, database_url: str, s3: S3Server, until: ExitStack) -> Address:
    """A new service on a database that has its schema, and on a new bucket; it ends with ``until``."""
    store = s3.place()
    settings = {"REGISTRY_DATABASE_URL": database_url, "REGISTRY_STORE_URL": store.url, **store.environ}
    token = create_token(database_url)  # before the start: a service that nobody may use does not start
    service = ServiceProcess.started(home, settings)
    until.callback(service.close)
    return Address(service.url, token)


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


@dataclass(frozen=True)
class Measured:
    """What a service needs."""

    home: Home
    postgres: Postgres
    s3: S3Server
    until: ExitStack

    def measure(self, revisions: int, seconds: float, runs: int) -> tuple[list[Figure], dict[str, list[Sample]]]:
        """Fill a database, start a service on it, and race."""
        from registry import connect

        url = self.postgres.database()
        subprocess.run(
            [sys.executable, "-m", "benchmarks.service_ours", url, "0", str(revisions)], cwd=ROOT, check=True
        )
        address = start(self.home, url, self.s3, self.until)
        with closing(connect(address.url, address.token)) as remote:
            remote.add_base("tiny", synthetic.base_model(_cache(), synthetic.TINY))
            remote.publish(_adapter(), "tiny/first")
        samples: dict[str, list[Sample]] = {name: [] for name in RACES}
        for turn in range(runs):
            for name, (action, count) in RACES.items():
                sample = race("service_http", action, str(address), revisions, count=count, seconds=seconds)
                samples[name].append(sample)
                sys.stderr.write(f"  run {turn + 1}, HTTP, {name}: {sample['rate']:.0f}/s\n")
        rows = []
        for name, values in samples.items():
            rows.append(Figure(name, running.median(values, "rate"), "/s"))
            rows.append(Figure("  one of them, median", running.median(values, "p50"), "ms"))
            rows.append(Figure("  99th percentile", running.median(values, "p99"), "ms"))
            if failed := sum(sample["failed"] for sample in values):
                rows.append(Figure("  failed", failed, ""))
        return rows, samples
