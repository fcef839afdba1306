"""Publishes and lookups a second of the catalogue, of MLflow 3 and of the bare query, on the same two databases."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import running, service_bare
from benchmarks.running import Figure, Sample
from benchmarks.service_race import ROOT, race
from tests.kit.servers import Postgres

WRITERS = 8
ACTIONS = {"publish": ("publisher", WRITERS), "lookup": ("looker", 1)}
OURS, BARE, PEER = "service_ours", "service_bare", "service_mlflow"
NAMES = {OURS: "the registry", BARE: "the bare statement", PEER: "MLflow"}


@dataclass(frozen=True)
class Races:
    """Where the databases lie, and how long is raced. Without ``python``, the peer stays out."""

    scratch: Path
    postgres: Postgres
    python: str | None
    seconds: float
    runs: int

    def measure(self, revisions: int) -> tuple[list[Figure], dict[str, list[Sample]]]:
        """Fill all databases with so many revisions, and race on them."""
        samples: dict[str, list[Sample]] = {}
        for database in ("SQLite", "PostgreSQL"):
            urls = self._filled(database, revisions)
            for turn in range(self.runs):
                for action, side in self._order(urls):
                    sample = self._race(side, action, urls[side], revisions)
                    samples.setdefault(f"{database} {action} {side}", []).append(sample)
                    sys.stderr.write(f"  run {turn + 1}, {database}, {action}, {side}: {sample['rate']:.0f}/s\n")
        return list(self._figures(samples)), samples

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

    def _figures(self, samples: dict[str, list[Sample]]) -> Iterator[Figure]:
        for database in ("SQLite", "PostgreSQL"):
            for action, (_, count) in ACTIONS.items():
                who = f"{count} writers" if count > 1 else "1 reader"
                raced = {side: found for side in NAMES if (found := samples.get(f"{database} {action} {side}"))}
                for side, values in raced.items():
                    yield Figure(f"{database}, {action}, {who}: {NAMES[side]}", running.median(values, "rate"), "/s")
                    yield Figure("  one of them, median", running.median(values, "p50"), "ms")
                    yield Figure("  99th percentile", running.median(values, "p99"), "ms")
                    if failed := sum(sample["failed"] for sample in values):
                        yield Figure("  refused by the database", failed, "")
                if PEER in raced:
                    times = running.median(raced[OURS], "rate") / running.median(raced[PEER], "rate")
                    yield Figure("  the registry, times MLflow", times, "x")
