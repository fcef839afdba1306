"""What a request costs a service, in CPU, beside a bare uvicorn answer of the same size.

The catalogue is filled in bulk, ten revisions an adapter; one client with one connection asks for one adapter after the
other. CPU is user and system time of the server's processes; PostgreSQL's own is not in it.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import peer_server, request_steps, running, synthetic
from benchmarks.asked import asked
from benchmarks.machine import ROOT
from benchmarks.peer_server import cpu_seconds
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from benchmarks.service_race import race
from tests.kit.servers import DURABLE, Postgres
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess, create_token

EACH: Final = 10  # revisions an adapter
SIZES: Final = (1_000, 10_000)  # adapters
REQUESTS: Final = 400  # of one sample
BARE: Final = "bare uvicorn answer of that size"


@dataclass(frozen=True)
class Read:
    """A request, ``{}`` for the name of an adapter where it has one; and its limits, as multiples of a bare answer."""

    name: str
    target: str
    sqlite: float
    postgresql: float
    method: str = "GET"

    def limit(self, database: str) -> float:
        """The limit on a database."""
        return self.sqlite if database == "SQLite" else self.postgresql


READS: Final = (
    Read("resolve", "/api/v1/resolve?ref=bench/{}@prod", 2.5, 5.0),
    Read("show", "/api/v1/revisions?ref=bench/{}@prod", 4.0, 8.0),
    Read("Hub, information of a repo", "/hf-published/api/models/tiny/first", 4.0, 8.0),
    Read("Hub, HEAD of a file", "/hf-published/tiny/first/resolve/main/adapter_config.json", 4.0, 8.0, method="HEAD"),
)


@dataclass(frozen=True)
class Service:
    """A running service of a filled catalogue."""

    process: ServiceProcess
    token: str
    adapters: int

    def asker(self, read: Read, requests: int) -> Callable[[Path], Sample]:
        """Asks for adapters by chance."""
        chance, headers = random.Random(1), {"Authorization": f"Bearer {self.token}"}

        def target() -> str:
            return read.target.format(f"a{chance.randrange(self.adapters):06d}")

        return lambda _out: asked(self.process.url, self.process.process.pid, read.method, target, headers, requests)


def rows(run: Conditions) -> Iterator[Row]:
    """All reads on both databases, by size; what one consists of; and what a second worker brings."""
    run.cache.mkdir(parents=True, exist_ok=True)
    sizes, requests = ((20,), 20) if run.quick else (SIZES, REQUESTS)
    with ExitStack() as until:
        scratch = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="reads-", dir=run.cache)))
        home = Home.of_process(scratch)
        until.callback(home.leave)
        postgres = until.enter_context(closing(Postgres.started(home, DURABLE)))
        for database in ("SQLite", "PostgreSQL"):
            first: dict[str, Figure] = {}
            for adapters in sizes:
                place = postgres.database() if database == "PostgreSQL" else f"sqlite:///{scratch / str(adapters)}.db"
                filled(place, adapters, scratch / "store", run.cache)
                with service(home, place, scratch, adapters) as found:
                    for read, row in measured(home, found, database, scratch, run.runs(5), requests):
                        yield row
                        if read.name in first:
                            yield _growth(read, row, database, first[read.name], sizes[0])
                        first.setdefault(read.name, row.figure)
                if adapters == sizes[0]:
                    yield from request_steps.rows(run, home, place, scratch, requests)
                if adapters == sizes[0] and database == "PostgreSQL":
                    yield from workers(home, place, scratch, adapters, run)


def filled(place: str, adapters: int, store: Path, cache: Path) -> None:
    """Fill a new database, and publish one adapter for the Hub's views, which look at what it really consists of."""
    from registry.services.local import LocalRegistry
    from registry.storage.filesystem import FilesystemDriver

    command = [sys.executable, "-m", "benchmarks.service_ours", place, "0", str(adapters * EACH)]
    subprocess.run(command, cwd=ROOT, check=True)
    store.mkdir(exist_ok=True)
    with closing(LocalRegistry.of(place, FilesystemDriver(store), actor="bench")) as registry:
        registry.add_base("tiny", synthetic.base_model(cache, synthetic.TINY))
        registry.publish(synthetic.adapter(cache, synthetic.TINY, seed=1), "tiny/first")


def service(home: Home, place: str, scratch: Path, adapters: int, options: tuple[str, ...] = ()) -> closing[_Running]:
    """A service of that database."""
    token = create_token(place, "reader")
    settings = {"REGISTRY_DATABASE_URL": place, "REGISTRY_STORE_URL": str(scratch / "store")}
    return closing(_Running(ServiceProcess.started(home, settings, options), token, adapters))


@dataclass(frozen=True)
class _Running(Service):
    def close(self) -> None:
        self.process.close()


def measured(
    home: Home, found: Service, database: str, scratch: Path, runs: int, requests: int
) -> Iterator[tuple[Read, Row]]:
    """Each read in turn with a bare answer of its size."""
    for read in READS:
        ours = found.asker(read, requests)
        body = b"x" * int(ours(scratch)["size"])
        command, port = peer_server.bare(body, scratch)
        with peer_server.running(home, command, port, "") as bare:

            def peer(_out: Path, url: str = bare.url, pid: int = bare.pid, method: str = read.method) -> Sample:
                return asked(url, pid, method, lambda: "/", {}, requests)

            turns = scratch / "turns"
            turns.mkdir(exist_ok=True)
            samples = running.alternate({"ours": ours, "bare": peer}, runs=runs, scratch=turns)
        yield (
            read,
            Row(
                f"{read.name} over HTTP, {found.adapters:,} adapters, {database}",
                Figure.of(samples["ours"], "ms"),
                "ms CPU",
                Peer(BARE, Figure.of(samples["bare"], "ms")),
                Goal("at most", read.limit(database), of="ratio"),
            ),
        )


def _growth(read: Read, row: Row, database: str, first: Figure, adapters: int) -> Row:
    return Row(
        f"{read.name}, growth, {database}", row.figure, row.unit, Peer(f"{adapters:,} adapters", first),
        Goal("at most", 1.2, of="ratio"),
    )  # fmt: skip


def workers(home: Home, place: str, scratch: Path, adapters: int, run: Conditions) -> Iterator[Row]:
    """Requests a second with two workers beside one, by eight clients that are processes of this machine too."""
    seconds = 0.3 if run.quick else 5.0
    with service(home, place, scratch, adapters) as one, service(home, place, scratch, adapters, TWO) as two:

        def raced(found: Service) -> Sample:
            word = f"{found.process.url} {found.token}"
            before = cpu_seconds(found.process.process.pid)
            rate = race("service_http", "looker", word, adapters * EACH, count=8, seconds=seconds)
            spent = (cpu_seconds(found.process.process.pid) - before) / rate["count"]
            return {**rate, "seconds": 1 / rate["rate"], "cpu": spent}

        turns = scratch / "turns"
        sides: dict[str, Callable[[Path], Sample]] = {"one": lambda _out: raced(one), "two": lambda _out: raced(two)}
        samples = running.alternate(sides, runs=run.runs(5), scratch=turns)
    yield Row(
        "resolve with 2 workers, 8 clients on the same machine",
        Figure.of(samples["two"], "rate"),
        "/s",
        Peer("1 worker", Figure.of(samples["one"], "rate")),
    )


TWO: Final = ("--workers", "2")
