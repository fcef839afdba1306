"""Metrics of several workers: processes that count, one after the other and beside each other, and the sums."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.root import ROOT

WORKER = """
import sys
from pathlib import Path
from registry.http.context import RequestContext
from registry.http.metrics import Metrics
from registry.http.metrics import SharedValues
from registry.memory import Use

folder, number, requests, hits, in_use = Path(sys.argv[1]), *map(int, sys.argv[2:6])
cache = Use(0, 0, 0, 0)
metrics = Metrics(
    lambda: {"operations": {"open": 7.0}},
    lambda: {"pool": {"in_use": float(in_use)}},
    lambda: {"plan": cache},
    SharedValues(folder, number, 2),
)
for _ in range(requests):
    metrics.note("GET", "/tree", RequestContext("request", status=200))
for count in range(1, hits + 1):
    cache = Use(count, 0, 10 * in_use, 1)
    metrics.publish()
print(metrics.text().decode())
"""


def counted(folder: Path, number: int, *, requests: int, hits: int, in_use: int) -> dict[str, float]:
    """What a worker says that has just counted so much; its process then ends, and its files stay."""
    words = [str(folder), *map(str, (number, requests, hits, in_use))]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, *words], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    )
    samples = [sample for family in text_string_to_metric_families(done.stdout) for sample in family.samples]
    return {sample.name: sample.value for sample in samples if "le" not in sample.labels}


def test_workers_add_up_and_a_successor_goes_on(tmp_path: Path) -> None:
    first = counted(tmp_path, 1, requests=3, hits=2, in_use=4)
    assert (first["registry_requests_total"], first["registry_cache_hits_total"], first["registry_pool"]) == (3, 2, 4)
    both = counted(tmp_path, 2, requests=5, hits=6, in_use=1)
    assert both["registry_requests_total"] == both["registry_request_seconds_count"] == 8
    assert both["registry_cache_hits_total"] == 8
    assert (both["registry_pool"], both["registry_cache_bytes"]) == (5, 50)
    assert both["registry_operations"] == 7  # of the whole registry: said once
    again = counted(tmp_path, 1, requests=1, hits=1, in_use=2)  # it takes the place of the first
    assert again["registry_requests_total"] == 9
    assert again["registry_cache_hits_total"] == 9
    assert (again["registry_pool"], again["registry_cache_bytes"]) == (3, 30)
