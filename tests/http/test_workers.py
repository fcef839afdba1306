"""Several workers of one service: they share a port, a registry and their metrics, and one takes another's place.

Metrics of several workers: processes that count, one after the other and beside each other, and the sums.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from registry.http.limits import Limits
from registry.http.server import listen
from registry.schemas.protocol import API, USE_HEADER
from tests.kit.library import fill, with_tokens
from tests.kit.servers_service import SERVE, ServiceProcess, clean_environ
from tests.kit.servers_workers import Worker, each_worker, lines, process_of
from tests.root import ROOT

StartService = Callable[..., ServiceProcess]
TWO = ("--workers", "2")


def value(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's values with these labels."""
    wanted = [f'{label}="{one}"' for label, one in labels.items()]
    found = [line for line in text.splitlines() if re.match(rf"{name}[ {{]", line)]
    return sum(float(line.rpartition(" ")[2]) for line in found if all(part in line for part in wanted))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_what_is_refused_beyond_a_number_is_divided() -> None:
    whole, half = Limits(), Limits().divided(2)
    assert (half.computed, half.bodies, half.parts, half.queue) == (2, 16, 16, 32)
    assert (half.denials, half.denials_of_one, half.jobs) == (150, 15, 1)
    assert half.document == whole.document
    assert Limits().divided(64).computed == Limits().divided(64).jobs == 1
    assert Limits().divided(1) == whole


@pytest.mark.long
def test_workers_are_one_service(start_service: StartService, tmp_path: Path) -> None:
    """Rights, metrics and uses; then one is killed while requests go on, and the service is told to stop."""
    shelf = fill(tmp_path)
    library = with_tokens(shelf)
    root = shelf.root / "registry"
    admin, reader = library.secrets["admin"], library.secrets["reader"]
    service = start_service({"REGISTRY_URL": str(root), "REGISTRY_CACHE": "64MiB"}, *TWO)
    assert f"Serving {root} on {service.url}" in service.log
    with each_worker(service, 2, admin) as workers:
        assert [worker.number for worker in workers] == [1, 2]
        _rights_hold_at_the_next_request(workers)
        _metrics_add_up(service, workers)
        _each_tells_of_itself(workers)
    _uses_add_up(service, reader, admin)
    _one_is_killed(service, admin)
    _all_stop(service)
    shelf.close()


def _each_tells_of_itself(workers: list[Worker]) -> None:
    """A row for each worker, which any of them reads."""

    def told() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = workers[0].ask("GET", "/health")[1]["replicas"]
        return sorted(found, key=lambda one: one["worker"])

    until(lambda: len(told()) == len(workers), "a worker wrote no row")
    assert [one["worker"] for one in told()] == [1, 2]
    assert all(one["answers"] for one in told())
    assert len({one["process"] for one in told()}) == 2


def _rights_hold_at_the_next_request(workers: list[Worker]) -> None:
    """What one worker has answered before, another one changes; then all answer what is true now."""
    one, two = workers
    for worker in workers:
        assert worker.ask("GET", "/artifacts", ref="tiny/a@1")[0] == 200
    retract = {"ref": "tiny/a@1", "reason": "wrong data"}
    assert two.ask("POST", "/retractions", retract)[0] == 200
    for worker in workers:
        status, told = worker.ask("GET", "/artifacts", ref="tiny/a@1")
        assert (status, told["code"]) == (410, "retracted")
    assert one.ask("POST", "/retractions", {"ref": "tiny/a@1", "undo": True})[0] == 200
    for worker in workers:
        assert worker.ask("GET", "/artifacts", ref="tiny/a@1")[0] == 200

    status, made = one.ask("POST", "/tokens", {"role": "reader", "name": "short-lived"})
    assert status == 201
    holders = [Worker(worker.number, worker.wire, {"Authorization": f"Bearer {made['secret']}"}) for worker in workers]
    assert [holder.ask("GET", "/whoami")[0] for holder in holders] == [200, 200]
    assert one.ask("DELETE", f"/tokens/{made['token']['id']}")[0] == 200
    assert [holder.ask("GET", "/whoami")[0] for holder in holders] == [401, 401]


def _metrics_add_up(service: ServiceProcess, workers: list[Worker]) -> None:
    before = value(workers[0].metrics(), "registry_requests_total", route=f"{API}/tree")
    for count, worker in enumerate(workers, start=3):
        for _ in range(count):
            assert worker.ask("GET", "/tree")[0] == 200
    # A request is counted and its line is written once its answer is on its way.
    until(lambda: len(lines(service, event="request", route=f"{API}/tree")) == before + 7, "a request has no line")
    for worker in workers:
        text = worker.metrics()
        assert value(text, "registry_requests_total", route=f"{API}/tree") == before + 7
        assert value(text, "registry_request_seconds_count", route=f"{API}/tree") == before + 7
        assert value(text, "registry_operations", state="open") == 0  # said once, and not by each
    # Each has opened the artifact of `tiny/a@1` at least once, so both caches are in the sum.
    until(lambda: value(workers[0].metrics(), "registry_cache_misses_total", kind="plan") >= 2, "caches do not add up")


def _uses_add_up(service: ServiceProcess, reader: str, admin: str) -> None:
    """Each worker counts what it was asked for; `show` has the sum once they have written it."""
    with each_worker(service, 2, reader) as workers:
        for worker in workers:
            opened = Worker(worker.number, worker.wire, {**worker.headers, USE_HEADER: "fetch"})
            assert opened.ask("GET", "/artifacts", ref="tiny/b@1")[0] == 200

    def counted() -> bool:
        answer = httpx.get(
            f"{service.url}{API}/revisions", params={"ref": "tiny/b@1"}, headers={"Authorization": f"Bearer {admin}"}
        )
        return bool(answer.json()["use"]["uses"] == 2)

    until(counted, "the uses of both workers are not counted")


def _one_is_killed(service: ServiceProcess, admin: str) -> None:
    """Whoever was not connected to it notices nothing; it is there again soon, and no counter goes back."""
    ended, failures, statuses = threading.Event(), [], []
    headers = {"Authorization": f"Bearer {admin}"}

    def keep_asking() -> None:
        while not ended.is_set():
            try:
                statuses.append(httpx.get(f"{service.url}{API}/tree", headers=headers, timeout=60).status_code)
            except httpx.TransportError as error:
                failures.append(error)

    with each_worker(service, 2) as workers:
        before = value(workers[1].metrics(), "registry_requests_total")
    victim = process_of(service, 1)
    askers = [threading.Thread(target=keep_asking) for _ in range(3)]
    for asker in askers:
        asker.start()
    until(lambda: len(statuses) > 5, "nobody answers")
    os.kill(victim, signal.SIGKILL)
    until(lambda: bool(lines(service, event="a worker is ready again", worker=1)), "it does not come back")
    ended.set()
    for asker in askers:
        asker.join()
    assert set(statuses) == {200}
    most = len(askers)  # that it was answering when it was killed
    assert len(failures) <= most
    (line,) = lines(service, event="a worker ended and is started again")
    assert (line["worker"], line["status"], line["level"]) == (1, -signal.SIGKILL, "error")
    with each_worker(service, 2) as workers:
        assert process_of(service, 1) != victim
        for worker in workers:  # an answer is counted once it is out: not that of a worker that was killed in between
            assert value(worker.metrics(), "registry_requests_total") >= before + len(statuses) - most


def _all_stop(service: ServiceProcess) -> None:
    below = psutil.Process(service.process.pid).children(recursive=True)
    workers = {process_of(service, 1), process_of(service, 2)}
    assert workers <= {process.pid for process in below}
    assert service.stop() == 0
    assert not [process for process in _running(below) if process.pid in workers]
    # Python's own process that tracks shared memory ends once it sees that the supervisor has.
    until(lambda: not _running(below), "a process is left behind")
    assert not lines(service, level="error", event="a worker did not stop and is killed")
    assert service.printed == []


def _running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_a_taken_port_is_refused_before_any_worker_starts(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        command = [*SERVE[:-1], port, "--url", str(tmp_path / "new"), "--workers", "2"]
        done = subprocess.run(command, env=clean_environ({}), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1 port {port}" in done.stderr
    assert "worker" not in done.stderr


@pytest.mark.slow
def test_a_worker_that_can_not_begin_ends_the_service(tmp_path: Path) -> None:
    command = [*SERVE, "--url", str(tmp_path / "new"), "--workers", "2"]
    with subprocess.Popen(
        command, env=clean_environ({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.search(r'"pid": (\d+)', first)
        assert found is not None, first
        os.kill(int(found[1]), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a worker ended before it was ready" in said
    assert "could not start" in said.splitlines()[-1]


@pytest.mark.long
@pytest.mark.slow
def test_workers_end_without_their_supervisor(start_service: StartService, tmp_path: Path) -> None:
    service = start_service({"REGISTRY_URL": str(tmp_path / "new"), "REGISTRY_WORKERS": "2"})  # the setting does it too
    below = psutil.Process(service.process.pid).children()
    address = urlsplit(service.url)
    service.process.kill()
    gone, alive = psutil.wait_procs(below, timeout=60)
    assert (len(gone) >= 2, alive) == (True, [])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname or "", address.port or 0))


@pytest.mark.long
@pytest.mark.slow
def test_a_worker_that_is_asked_to_end_is_replaced(start_service: StartService, tmp_path: Path) -> None:
    service = start_service({"REGISTRY_URL": str(tmp_path / "new")}, *TWO)
    os.kill(process_of(service, 2), signal.SIGTERM)
    until(lambda: bool(lines(service, event="a worker is ready again", worker=2)), "it does not come back")
    (line,) = lines(service, event="a worker ended and is started again")
    assert line["status"] == 0
    assert service.status("/readyz") == 200
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(60) == 0


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
