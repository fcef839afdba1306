"""Prometheus metrics of a service, in a collector registry of their own.

The workers of one service add theirs up: each keeps its values in files of a folder that all of them map, so that
whichever is scraped can read all. A worker that takes the place of one that died goes on with its files: counters never
go back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from registry.http.context import RequestContext
from registry.memory import Kind, Use


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
        """The values of all workers, and what ``whole`` reports once for all of them."""
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


MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

Gauges = Callable[[], Mapping[str, Mapping[str, float]]]
CacheUse = Callable[[], Mapping[Kind, Use]]


class Metrics:
    """Metrics of one service process, or of all workers of a service.

    Args:
        whole: called on each scrape: name -> label -> value, of the whole registry (`operations`).
        own: the same, of this process (`pool`).
        cache: usage of the in-memory cache, by kind.
        shared: this process is one of several workers. For all of the process: the library has one kind of values.
    """

    def __init__(
        self, whole: Gauges, own: Gauges = dict, cache: CacheUse = dict, shared: SharedValues | None = None
    ) -> None:
        self._registry = CollectorRegistry()
        self._whole, self._own = _Asked(whole), (_Asked(own), _Cache(cache))
        self._shared = None if shared is None else SharedMetrics(shared, self._registry)
        if self._shared is None:
            for collector in (self._whole, *self._own):
                self._registry.register(collector)
        self._requests = Counter(
            "registry_requests", "Requests.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "registry_request_seconds",
            "Time from the request to the end of its response.",
            ("route",),
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self._bytes = Counter(
            "registry_body_bytes", "Bytes of bodies that are not JSON.", ("kind", "direction"), registry=self._registry
        )

        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def note(self, method: str, route: str, context: RequestContext) -> None:
        """Count a finished request."""
        key = (method if method in METHODS else "other", route, context.status or 0)
        if key not in self._known:  # finding them by their labels takes longer than counting
            self._known[key] = (self._requests.labels(*key), self._seconds.labels(route))
        count, seconds = self._known[key]
        count.inc()
        seconds.observe(context.milliseconds / 1000)
        if context.kind is not None:
            self._bytes.labels(context.kind, "in").inc(context.received)
            self._bytes.labels(context.kind, "out").inc(context.sent)

    @property
    def is_shared(self) -> bool:
        """Whether these are the metrics of several workers."""
        return self._shared is not None

    def publish(self) -> None:
        """Let the other workers see what is read rather than counted: the pool and the cache of this one."""
        if self._shared is not None:
            self._shared.update(family for collector in self._own for family in collector.collect())

    def text(self) -> bytes:
        """All metrics in the text format; those of all workers."""
        self.publish()
        return generate_latest(self._registry if self._shared is None else self._shared.of_all(self._whole))


class _Asked(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def describe(self) -> list[Metric]:
        """Empty, so that registering a collector does not call it."""
        return []

    def collect(self) -> Iterator[Metric]:
        for name, by_state in self._gauges().items():
            label = "command" if name.startswith("last_success") else "state"
            family = GaugeMetricFamily(f"registry_{name}", _HELP[name], labels=(label,))
            for state, value in by_state.items():
                family.add_metric((state,), value)
            yield family


class _Cache(Collector):
    def __init__(self, use: CacheUse) -> None:
        self._use = use

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        found = self._use()
        for name, (family, text) in _OF_CACHE.items():
            metric = family(f"registry_cache_{name}", text, labels=("kind",))
            for kind, use in found.items():
                metric.add_metric((kind,), getattr(use, name))
            yield metric


_OF_CACHE: Final[Mapping[str, tuple[type[CounterMetricFamily | GaugeMetricFamily], str]]] = {
    "hits": (CounterMetricFamily, "Lookups answered from memory."),
    "misses": (CounterMetricFamily, "Values that had to be computed."),
    "bytes": (GaugeMetricFamily, "Bytes that are kept in memory."),
    "entries": (GaugeMetricFamily, "Values that are kept in memory."),
}
_HELP: Final = {
    "pool": "Connections to the database.",
    "operations": "Operations of the whole registry that are waiting or running.",
    "last_success_timestamp_seconds": "When a command last came to its end and found nothing wrong.",
    "followers": "Followers that report what they serve, and those whose lease has ended within a day.",
    "followed_names": "Names at followers, by whether what they point at is served.",
    "damage": "Blobs that the last fsck found damaged or could not read.",
}
