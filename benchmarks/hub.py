"""Merged models that were never stored, streamed beside stored copies of the same bytes.

*stream*: a shard of a synthetic Llama 1.1 B in bf16, merged over a path of depth 4 while it is read, cold and warm, and
the time to its first byte; the peers serve a stored copy of it: Starlette's FileResponse and granian.
*many*: eight clients on eight paths of one base, beside eight stored models; memory, and what the store has grown by.
*s3*: a merged shard from a service that has just started on an S3 server, beside boto3's own read of the base's shard.

The client only drains; CPU is that of the server. Peers that are not ours run in the environment of
``benchmarks/peers.txt``.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import hub_client, merge_parts, peer_server, running, synthetic
from benchmarks.machine import ROOT
from benchmarks.peer_server import PeerServer, cpu_seconds
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from tests.kit import servers_home
from tests.kit.servers import NO_ETAGS, S3Server
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess

DEPTH = 4
CLIENTS = 8
COMPUTED, KEPT = "256MiB", "4GiB"
"""Caches of a service: what is streamed is computed each time, or kept in memory once it was."""
SHARD = "model-00001-of-00003.safetensors"
SMALLER = synthetic.Shape(hidden=1024, intermediate=2816, layers=16, heads=16, kv_heads=4, vocab=16000, shards=3)
MIDDLE = synthetic.Shape(hidden=2048, intermediate=5632, layers=10, heads=32, kv_heads=4, vocab=32000, shards=3)


@dataclass(frozen=True)
class Bench:
    """What every part works with. Without ``python``, the peers that are not in our environment stay out."""

    home: Home
    cache: Path
    scratch: Path
    runs: int
    tiny: bool
    python: str | None
    until: ExitStack

    def shape(self, shape: synthetic.Shape) -> synthetic.Shape:
        """The shape, or the one for a quick try."""
        return synthetic.TINY if self.tiny else shape


def fill(url: Path | None, shape: synthetic.Shape, cache: Path, paths: list[list[int]]) -> None:
    """Add the base and publish paths, each a list of seeds, into a folder or the registry of the settings."""
    from registry import connect

    with closing(connect(url)) as registry:
        registry.add_base("llama", synthetic.base_model(cache, shape))
        for seeds in paths:
            for depth, seed in enumerate(seeds, start=1):
                path = "llama/" + "/".join(f"a{one:02d}" for one in seeds[:depth])
                registry.publish(synthetic.adapter(cache, shape, seed=seed), path)


def hub_url(service: ServiceProcess, seeds: list[int], file: str) -> str:
    """The address of a merged file, with the commit that `main` is now."""
    repo = f"llama/{'.'.join(f'a{seed:02d}' for seed in seeds)}"
    with urllib.request.urlopen(f"{service.url}/hf/api/models/{repo}", timeout=60) as answer:
        commit = json.load(answer)["sha"]
    return f"{service.url}/hf/{repo}/resolve/{commit}/{file}"


def drained(pid: int, *urls: str) -> Sample:
    """What a process of its own measures that drains these, and the CPU seconds of the server meanwhile."""
    before = cpu_seconds(pid)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hub_client", *urls], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"draining {urls[0]} failed:\n{done.stderr}")
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    return {**sample, "cpu": cpu_seconds(pid) - before, "GB/s": sample["size"] / sample["seconds"] / 1e9}


def file_response(bench: Bench, folder: Path, path: str) -> PeerServer:
    """FileResponse over a folder."""
    port = servers_home.free_port()
    command = [sys.executable, "-m", "benchmarks.hub_files", str(folder), str(port)]
    return bench.until.enter_context(peer_server.running(bench.home, command, port, path))


def granian(bench: Bench, folder: Path, path: str) -> PeerServer:
    """Granian over a folder, below ``/files``, with as many workers as there are cores."""
    port = servers_home.free_port()
    words = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), "--no-ws", "--log-level", "error"]
    words += ["--workers", str(os.cpu_count() or 1)]
    mount = ["--static-path-route", "/files", "--static-path-mount", str(folder)]
    command = [bench.python or "", "-m", "granian", *words, *mount, "benchmarks.hub_nothing:app"]
    return bench.until.enter_context(peer_server.running(bench.home, command, port, f"files/{path}"))


def stream(bench: Bench) -> Iterator[Row]:
    """One shard, merged while it is read."""
    from registry import connect

    shape, seeds = bench.shape(synthetic.LARGE), list(range(1, DEPTH + 1))
    folder, stored = bench.scratch / "registry", bench.scratch / "stored"
    reference = f"llama/{'/'.join(f'a{one:02d}' for one in seeds)}"
    fill(folder, shape, bench.cache, [seeds])
    with closing(connect(folder)) as registry:
        registry.fetch(reference, stored, kind="merged")
    running.warm(folder, stored)

    def start(cache: str = COMPUTED) -> ServiceProcess:
        return ServiceProcess.started(bench.home, {"REGISTRY_URL": str(folder), "REGISTRY_CACHE": cache})

    cold: list[Sample] = []
    for _ in range(bench.runs):
        with closing(start()) as service:
            cold.append(drained(service.process.pid, hub_url(service, seeds, SHARD)))
    service = bench.until.enter_context(closing(start()))
    url = hub_url(service, seeds, SHARD)
    pid, files = service.process.pid, file_response(bench, stored, SHARD)
    sides: dict[str, Callable[[Path], Sample]] = {
        "warm": lambda _out: drained(pid, url),
        "file response": lambda _out: drained(files.pid, f"{files.url}/{SHARD}"),
    }
    if bench.python:
        static = granian(bench, stored, SHARD)
        sides["granian"] = lambda _out: drained(static.pid, f"{static.url}/files/{SHARD}")
    drained(pid, url)
    samples = running.alternate(sides, runs=bench.runs, scratch=bench.scratch)
    size = samples["warm"][0]["size"]
    of = {name: Figure.of(values, "GB/s") for name, values in {**samples, "cold": cold}.items()}
    what = f"shard of {size / 1e6:,.0f} MB, merged while it is read, depth {DEPTH}"
    granian_file = Peer("granian's stored copy, workers", of["granian"]) if "granian" in of else None
    stored_file = Peer("FileResponse of a stored copy", of["file response"])
    yield Row(what, of["warm"], "GB/s", granian_file, Goal("at least", 0.8, of="ratio"))
    yield Row("  the same", of["warm"], "GB/s", stored_file, Goal("at least", 1.5, of="ratio"))
    yield Row("  the first stream of a process, with planning", of["cold"], "GB/s", stored_file)
    again = bench.until.enter_context(closing(start(KEPT)))
    kept = hub_url(again, seeds, SHARD)
    drained(again.process.pid, kept)
    sides = {
        "again": lambda _out: drained(again.process.pid, kept),
        "file response": lambda _out: drained(files.pid, f"{files.url}/{SHARD}"),
    }
    spent = running.alternate(sides, runs=bench.runs, scratch=bench.scratch)
    copied = Peer("FileResponse of a stored copy", Figure.of(spent["file response"], "cpu"))
    yield Row(
        "  CPU of pulling it again from a service that keeps it in memory",
        Figure.of(spent["again"], "cpu"),
        "s",
        copied,
        Goal("at most", 3, of="ratio"),
    )
    firsts = [1000 * first for first in _first_bytes(url, int(size))]
    middle = Figure(statistics.median(firsts), None, min(firsts), max(firsts), len(firsts))
    yield Row("first byte of a range of 1 MiB", middle, "ms", goal=Goal("at most", 10, of="figure"))
    parts = [running.run_child("stream_parts", str(folder), reference, SHARD) for _ in range(bench.runs)]
    for part in merge_parts.OF_STREAM:
        yield Row(f"  CPU of merging and sending it in one process: {part}", Figure.of(parts, part), "s")


def _first_bytes(url: str, size: int) -> list[float]:
    places = random.Random(0)
    found = []
    for _ in range(40):
        start = places.randrange(0, max(1, size - (1 << 20)))
        found.append(hub_client.drain(url, start=start, stop=min(size, start + (1 << 20))).first)
    return found


def many(bench: Bench) -> Iterator[Row]:
    """Eight clients on eight paths of one base, beside eight stored models."""
    from registry import connect

    shape = bench.shape(SMALLER)
    paths = [[1, 2, seed] for seed in range(3, 3 + CLIENTS)]
    folder, stored = bench.scratch / "many", bench.scratch / "models"
    fill(folder, shape, bench.cache, paths)
    with closing(connect(folder)) as registry:
        for seeds in paths:
            path = "/".join(f"a{one:02d}" for one in seeds)
            registry.fetch(f"llama/{path}", stored / path.replace("/", "."), kind="merged")
    running.warm(folder, stored)
    environ = {"REGISTRY_URL": str(folder), "REGISTRY_CACHE": COMPUTED}
    service = bench.until.enter_context(closing(ServiceProcess.started(bench.home, environ)))
    urls = [hub_url(service, seeds, SHARD) for seeds in paths]
    before, small = used(folder), memory(service.process.pid, "VmRSS")
    files = file_response(bench, stored, f"{'.'.join(f'a{one:02d}' for one in paths[0])}/{SHARD}")
    copies = [f"{files.url}/{'.'.join(f'a{one:02d}' for one in seeds)}/{SHARD}" for seeds in paths]
    sides: dict[str, Callable[[Path], Sample]] = {
        "paths": lambda _out: drained(service.process.pid, *urls),
        "models": lambda _out: drained(files.pid, *copies),
    }
    samples = running.alternate(sides, runs=bench.runs, scratch=bench.scratch)
    grown, peak = used(folder) - before, memory(service.process.pid, "VmHWM") - small
    models = Peer("FileResponse of 8 stored models", Figure.of(samples["models"], "GB/s"))
    yield Row("8 clients, 8 paths of one base, in all", Figure.of(samples["paths"], "GB/s"), "GB/s", models)
    yield Row("  memory of the service, peak above its start", Figure(peak / 1e6), "MB")
    yield Row(
        "  what is stored, base and adapters",
        Figure(before / 1e6),
        "MB",
        Peer("8 stored models", Figure(used(stored) / 1e6)),
    )
    yield Row("  what the store has grown by", Figure(grown), "B", goal=Goal("at most", 0, of="figure"))


def used(folder: Path) -> int:
    """Bytes of the stored objects below a folder, without the database, which counts uses meanwhile."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("registry.db"))
    return sum(file.stat().st_size for file in files)


def memory(pid: int, field: str) -> int:
    """A figure of a process's memory, as its system counts it."""
    lines = Path(f"/proc/{psutil.Process(pid).pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def s3(bench: Bench) -> Iterator[Row]:
    """A cold stream over S3, beside boto3's read of the bytes that it needs."""
    shape, seeds = bench.shape(MIDDLE), list(range(1, DEPTH + 1))
    server = bench.until.enter_context(closing(S3Server.started(bench.home, [*NO_ETAGS])))
    place = server.place()
    environ = {
        **place.environ,
        "REGISTRY_DATABASE_URL": f"sqlite:///{bench.scratch / 'team.sqlite'}",
        "REGISTRY_STORE_URL": place.url,
    }
    with _settings(environ):
        from registry.app import upgrade_database

        upgrade_database()
        fill(None, shape, bench.cache, [seeds])
    base = synthetic.base_model(bench.cache, shape) / SHARD
    key, bucket = _object_of(place.folder, base.stat().st_size), place.bucket
    running.warm(place.folder)

    def merged(_out: Path) -> Sample:
        options = ["--anonymous", "read"]
        with closing(ServiceProcess.started(bench.home, environ, options)) as service:
            return drained(service.process.pid, hub_url(service, seeds, SHARD))

    def boto(out: Path) -> Sample:
        command = [bench.python or "", "-m", "benchmarks.service_boto", "download", bucket, key, str(out)]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **place.environ}, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"boto3 failed:\n{done.stderr}")
        sample: Sample = json.loads(done.stdout.splitlines()[-1])
        return sample

    sides = {"merged": merged} | ({"boto3": boto} if bench.python else {})
    memory_disk = Path("/dev/shm")
    scratch = memory_disk if memory_disk.is_dir() else bench.scratch
    samples = running.alternate(sides, runs=bench.runs, scratch=Path(tempfile.mkdtemp(dir=scratch)))
    size = base.stat().st_size
    for values in samples.values():
        for sample in values:
            sample["GB/s"] = size / sample["seconds"] / 1e9
    of = {name: Figure.of(values, "GB/s") for name, values in samples.items()}
    boto3 = Peer("boto3 with CRT, the base's shard, to memory", of["boto3"]) if "boto3" in of else None
    name = f"merged over S3 by a service that has just started, {size / 1e6:,.0f} MB"
    yield Row(name, of["merged"], "GB/s", boto3, Goal("at least", 0.5, of="ratio"))


def _object_of(folder: Path, size: int) -> str:
    """The key of the first object of this size, as the bucket names it."""
    found = next(file for file in sorted(folder.rglob("*")) if file.is_file() and file.stat().st_size == size)
    return str(found.relative_to(folder))


@contextmanager
def _settings(environ: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def rows(run: Conditions) -> Iterator[Row]:
    """All three."""
    run.cache.mkdir(parents=True, exist_ok=True)
    for part in (stream, many, s3):
        with ExitStack() as until:
            scratch = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="hub-", dir=run.cache)))
            home = Home.of_process(scratch)
            until.callback(home.leave)
            yield from part(Bench(home, run.cache, scratch, run.runs(5), run.quick, run.python, until))
