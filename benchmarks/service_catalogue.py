"""Publishes and lookups a second of the catalogue, of MLflow 3 and of the bare query, on the same two databases."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import service_bare
from benchmarks.rows import Figure, Peer, Row
from benchmarks.running import Conditions, Sample
from benchmarks.service import servers
from benchmarks.service_race import ROOT, race
from tests.kit.servers import Postgres

WRITERS = 8
ACTIONS = {"publish": ("publisher", WRITERS), "lookup": ("looker", 1)}
OURS, BARE, PEER = "service_ours", "service_bare", "service_mlflow"
NAMES = {OURS: "the registry", BARE: "the bare statement", PEER: "MLflow 3 in process"}


@dataclass(frozen=True)
class Races:
    """Where the databases lie, and how long is raced. Without ``python``, the peer stays out."""

    scratch: Path
    postgres: Postgres
    python: str | None
    seconds: float
    runs: int

    def measure(self, revisions: int) -> dict[str, list[Sample]]:
        """Fill all databases with so many revisions, and race on them."""
        samples: dict[str, list[Sample]] = {}
        for database in ("SQLite", "PostgreSQL"):
            urls = self._filled(database, revisions)
            for turn in range(self.runs):
                for action, side in self._order(urls):
                    sample = self._race(side, action, urls[side], revisions)
                    samples.setdefault(f"{database} {action} {side}", []).append(sample)
                    sys.stderr.write(f"  run {turn + 1}, {database}, {action}, {side}: {sample['rate']:.0f}/s\n")
        return samples

    def _order(self, urls: dict[str, str]) -> Iterator[tuple[str, str]]:
        for action in ACTIONS:
            for side in urls:
                yield action, side

    def _filled(self, database: str, revisions: int) -> dict[str, str]:
        urls = {OURS: self._new(database, f"ours-{revisions}")}
        if self.python is not None:
            urls[PEER] = self._new(database, f"mlflow-{revisions}")
        for side, url in urls.items():
            began = time.perf_counter()
            words = [self._python(side), "-m", f"benchmarks.{side}", url, "0", str(revisions)]
            done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{side} could not be filled:\n{done.stderr}")
            sys.stderr.write(f"  {side} on {database}, {revisions} rows: {time.perf_counter() - began:.1f} s\n")
        service_bare.prepare(urls[OURS])
        return {BARE: urls[OURS], **urls}

    def _new(self, database: str, name: str) -> str:
        return self.postgres.database() if database == "PostgreSQL" else f"sqlite:///{self.scratch / name}.sqlite"

    def _python(self, side: str) -> str:
        return self.python or sys.executable if side == PEER else sys.executable

    def _race(self, side: str, action: str, url: str, revisions: int) -> Sample:
        work, count = ACTIONS[action]
        return race(side, work, url, revisions, count=count, seconds=self.seconds, python=self._python(side))


def rows(run: Conditions) -> Iterator[Row]:
    """Races on databases of two sizes."""
    with servers(run) as found:
        race = Races(found.scratch, found.postgres, run.python, 0.3 if run.quick else 5.0, run.runs(3))
        for revisions in (100,) if run.quick else (10_000, 100_000):
            yield from _rows(race.measure(revisions), revisions)


def _rows(samples: dict[str, list[Sample]], revisions: int) -> Iterator[Row]:
    for database in ("SQLite", "PostgreSQL"):
        for action, (_, count) in ACTIONS.items():
            raced = {side: found for side in NAMES if (found := samples.get(f"{database} {action} {side}"))}
            who = f"{count} writers" if count > 1 else "1 reader"
            name = f"{action} in process, {who}, {database}, {revisions:,} revisions"
            for side, peer in NAMES.items():
                if side in raced and side != OURS:
                    beside = Peer(peer, Figure.of(raced[side], "rate"))
                    yield Row(name, Figure.of(raced[OURS], "rate"), "/s", beside)
            slowest = Peer(NAMES[PEER], Figure.of(raced[PEER], "p99")) if PEER in raced else None
            yield Row(f"{name}: 99th percentile", Figure.of(raced[OURS], "p99"), "ms", slowest)
            if PEER in raced:
                refused = {side: Figure(sum(one["failed"] for one in raced[side])) for side in (OURS, PEER)}
                yield Row(f"{name}: refused by the database", refused[OURS], "", Peer(NAMES[PEER], refused[PEER]))
