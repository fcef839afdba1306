"""Metrics that the workers of one service add up.

Each worker keeps its values in files of a folder that all of them map, so that whichever is scraped can read all. A
worker that takes the place of one that died goes on with its files: counters never go back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector


@dataclass(frozen=True)
class SharedValues:
    """Where the workers of a service keep their values: a folder, which of them this process is, and their number."""

    folder: Path
    worker: int  # from 1
    workers: int


class SharedMetrics:
    """Keeps all values of this process in its files: the library has one kind of values for a process.

    Args:
        place: the folder, and which worker this is.
        registry: of this process; what is published is made in it.
    """

    def __init__(self, place: SharedValues, registry: CollectorRegistry) -> None:
        self._folder = str(place.folder)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = self._folder
        values.ValueClass = values.MultiProcessValue(lambda: f"worker-{place.worker}")  # type: ignore[no-untyped-call]
        self._registry = registry
        self._published: dict[str, Counter | Gauge] = {}
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}

    def update(self, families: Iterable[Metric]) -> None:
        """Publish what this process reads of itself; counters are what it has counted since its start."""
        for family in families:
            for sample in family.samples:
                labels = tuple(sample.labels.values())
                metric = self._metric(family, tuple(sample.labels))
                if isinstance(metric, Gauge):
                    metric.labels(*labels).set(sample.value)
                else:  # the file also has what workers before this one counted
                    metric.labels(*labels).inc(sample.value - self._counted.get((family.name, labels), 0.0))
                    self._counted[family.name, labels] = sample.value

    def of_all(self, whole: Collector) -> CollectorRegistry:
        """The values of all workers, and what ``whole`` says once for all of them."""
        found = CollectorRegistry()
        found.register(whole)
        MultiProcessCollector(found, path=self._folder)  # type: ignore[no-untyped-call]
        return found

    def _metric(self, family: Metric, labels: tuple[str, ...]) -> Counter | Gauge:
        if family.name not in self._published:
            self._published[family.name] = (
                Counter(family.name, family.documentation, labels, registry=self._registry)
                if family.type == "counter"
                else Gauge(family.name, family.documentation, labels, registry=self._registry, multiprocess_mode="sum")
            )
        return self._published[family.name]
