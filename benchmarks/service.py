"""The team's registry beside its peers: publishes and lookups a second, downloads and uploads through S3.

    python -m benchmarks.service [--tiny] [--parts PART,PART] [--cache FOLDER] [--runs N] [--peer-python FILE]

`catalogue` races the registry's catalogue, MLflow 3 and the bare query on SQLite and PostgreSQL, `http` asks a running
service, and `transfer` moves an adapter through a real S3 server, beside boto3 with CRT. The peers run in a virtual
environment of their own, which `make bench` makes; ``--peer-python none`` leaves them out.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import running, service_catalogue, service_http, service_transfer
from benchmarks.running import Figure
from tests.kit.servers import DURABLE, NO_ETAGS, Postgres, S3Server
from tests.kit.servers_home import Home

PARTS = ("catalogue", "http", "transfer")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    revisions: tuple[int, ...]
    seconds: float  # of one race
    rank: int  # of the adapter that is moved


LARGE = Size(revisions=(10_000, 100_000), seconds=5, rank=1024)
TINY = Size(revisions=(100,), seconds=0.3, rank=64)


def main(arguments: list[str] | None = None) -> Path:
    """Run everything once and print the tables; the JSON file."""
    parser = argparse.ArgumentParser(prog="benchmarks.service", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--tiny", action="store_true", help="a hundred revisions: shows that the benchmark works")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, separated by commas")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "registry-benchmarks")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer-python", help="the Python that has MLflow and boto3 with CRT, or none")
    options = parser.parse_args(arguments)
    size, python = TINY if options.tiny else LARGE, running.peer_python(options.peer_python)
    options.cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="service-", dir=options.cache))
    home = Home.of_process(scratch)
    figures: dict[str, list[Figure]] = {}
    samples: dict[str, object] = {}
    with ExitStack() as until:
        until.callback(shutil.rmtree, scratch)
        until.callback(home.leave)
        postgres = Postgres.started(home, DURABLE)
        s3 = S3Server.started(home, NO_ETAGS)
        until.callback(postgres.close)
        until.callback(s3.close)
        if "catalogue" in options.parts:
            race = service_catalogue.Races(scratch, postgres, python, size.seconds, options.runs)
            for revisions in size.revisions:
                title = f"{revisions} revisions, medians of {options.runs} alternating runs of {size.seconds} s"
                figures[title], samples[title] = race.measure(revisions)
        if "http" in options.parts:
            title = f"Over HTTP, a service on PostgreSQL and S3, medians of {options.runs} runs of {size.seconds} s"
            service = service_http.Measured(home, postgres, s3, until)
            figures[title], samples[title] = service.measure(size.revisions[0], size.seconds, options.runs)
        if "transfer" in options.parts:
            title = f"Through S3 on loopback, medians of {options.runs} alternating runs"
            moved = service_transfer.Moved(home, postgres, s3, until, scratch, options.cache, python)
            figures[title], samples[title] = moved.measure(size.rank, options.runs, tiny=options.tiny)
    print("\n\n".join(running.table(title, rows) for title, rows in figures.items()))
    rows = [
        Figure(f"{title}: {row.name}", row.value, row.unit, row.limit) for title in figures for row in figures[title]
    ]
    file = running.save("service-tiny" if options.tiny else "service", rows, samples)
    print(f"\nSamples: {file.name} in benchmarks/results")
    return file


if __name__ == "__main__":
    main()
