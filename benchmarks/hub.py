"""Merged models that were never stored, streamed beside stored copies of the same bytes.

    python -m benchmarks.hub [--tiny] [--parts stream,many,s3] [--cache FOLDER] [--runs N] [--peer-python PYTHON]

*stream*: a shard of a synthetic Llama 1.1 B in bf16, merged over a path of depth 4 while it is read, cold and warm, and
the time to its first byte; the peers serve a stored copy of it: Starlette's FileResponse and granian.
*many*: eight clients on eight paths of one base, beside eight stored models; memory, and what the store has grown by.
*s3*: a merged shard from a service that has just started on an S3 server, beside boto3's own read of the base's shard.

The client only drains. The peers that are not ours run in the environment of ``benchmarks/peers.txt``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
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

from benchmarks import hub_client, running, synthetic
from benchmarks.machine import ROOT
from benchmarks.running import Figure, Sample
from tests.kit import servers_home
from tests.kit.servers import NO_ETAGS, S3Server
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess

DEPTH = 4
CLIENTS = 8
SHARD = "model-00001-of-00003.safetensors"
PARTS = ("stream", "many", "s3")
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


def drained(*urls: str) -> Sample:
    """What a process of its own measures that drains these."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hub_client", *urls], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"draining {urls[0]} failed:\n{done.stderr}")
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    return sample


@contextmanager
def served(bench: Bench, command: list[str], port: int, path: str) -> Iterator[str]:
    """A peer's server, until it is not needed any more; its address."""
    room = bench.home.room("peer")
    process = bench.home.run(command, room, environ={**os.environ, "PYTHONPATH": str(ROOT)})

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
                return bool(answer.read(1))
        except OSError:
            return False

    try:
        servers_home.wait_until(ready, process, room, "The peer")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        bench.home.forget(process)


def file_response(bench: Bench, folder: Path, path: str) -> str:
    """The address of FileResponse over a folder."""
    port = servers_home.free_port()
    command = [sys.executable, "-m", "benchmarks.hub_files", str(folder), str(port)]
    return bench.until.enter_context(served(bench, command, port, path))


def granian(bench: Bench, folder: Path, path: str) -> str:
    """The address of granian over a folder."""
    port = servers_home.free_port()
    words = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), "--no-ws", "--log-level", "error"]
    mount = ["--static-path-route", "/files", "--static-path-mount", str(folder)]
    command = [bench.python or "", "-m", "granian", *words, *mount, "benchmarks.hub_nothing:app"]
    return bench.until.enter_context(served(bench, command, port, f"files/{path}")) + "/files"


def stream(bench: Bench) -> tuple[list[Figure], dict[str, object]]:
    """One shard, merged while it is read."""
    from registry import connect

    shape, seeds = bench.shape(synthetic.LARGE), list(range(1, DEPTH + 1))
    folder, stored = bench.scratch / "registry", bench.scratch / "stored"
    fill(folder, shape, bench.cache, [seeds])
    with closing(connect(folder)) as registry:
        registry.fetch(f"llama/{'/'.join(f'a{one:02d}' for one in seeds)}", stored, kind="merged")
    running.warm(folder, stored)

    def start() -> ServiceProcess:
        return ServiceProcess.started(bench.home, {"REGISTRY_URL": str(folder)})

    cold: list[Sample] = []
    for _ in range(bench.runs):
        with closing(start()) as service:
            cold.append(drained(hub_url(service, seeds, SHARD)))
    service = bench.until.enter_context(closing(start()))
    url = hub_url(service, seeds, SHARD)
    sides: dict[str, Callable[[Path], Sample]] = {"warm": lambda _out: drained(url)}
    files = file_response(bench, stored, SHARD)
    sides["file response"] = lambda _out: drained(f"{files}/{SHARD}")
    if bench.python:
        static = granian(bench, stored, SHARD)
        sides["granian"] = lambda _out: drained(f"{static}/{SHARD}")
    drained(url)
    samples = running.alternate(sides, runs=bench.runs, scratch=bench.scratch)
    size = samples["warm"][0]["size"]
    firsts = _first_bytes(url, int(size))
    samples["cold"] = cold
    rate = {name: size / running.median(values) / 1e9 for name, values in samples.items()}
    rows = [
        Figure("size of the shard", size / 1e6, "MB"),
        Figure("merged while it is read, depth 4, warm", rate["warm"], "GB/s"),
        Figure("  the first stream of a process, with planning", rate["cold"], "GB/s"),
        Figure("Starlette's FileResponse of a stored copy", rate["file response"], "GB/s"),
        Figure("  ours, times that", rate["warm"] / rate["file response"], "x", "at least 1.5"),
    ]
    if "granian" in rate:
        rows.append(Figure("granian with a stored copy", rate["granian"], "GB/s"))
        rows.append(Figure("  ours, times that", rate["warm"] / rate["granian"], "x"))
    rows.append(Figure("first byte, median of 40 ranges of 1 MiB", 1000 * statistics.median(firsts), "ms", "under 50"))
    rows.append(Figure("  the slowest of them", 1000 * max(firsts), "ms"))
    return rows, {**samples, "first bytes": firsts}


def _first_bytes(url: str, size: int) -> list[float]:
    places = random.Random(0)
    found = []
    for _ in range(40):
        start = places.randrange(0, max(1, size - (1 << 20)))
        found.append(hub_client.drain(url, start=start, stop=min(size, start + (1 << 20))).first)
    return found


def many(bench: Bench) -> tuple[list[Figure], dict[str, object]]:
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
    service = bench.until.enter_context(closing(ServiceProcess.started(bench.home, {"REGISTRY_URL": str(folder)})))
    urls = [hub_url(service, seeds, SHARD) for seeds in paths]
    before, small = used(folder), memory(service.process.pid, "VmRSS")
    files = file_response(bench, stored, f"{'.'.join(f'a{one:02d}' for one in paths[0])}/{SHARD}")
    copies = [f"{files}/{'.'.join(f'a{one:02d}' for one in seeds)}/{SHARD}" for seeds in paths]
    sides: dict[str, Callable[[Path], Sample]] = {
        "paths": lambda _out: drained(*urls),
        "models": lambda _out: drained(*copies),
    }
    samples = running.alternate(sides, runs=bench.runs, scratch=bench.scratch)
    rate = {name: values[0]["size"] / running.median(values) / 1e9 for name, values in samples.items()}
    grown, peak = used(folder) - before, memory(service.process.pid, "VmHWM") - small
    rows = [
        Figure("8 clients, 8 paths of one base, in all", rate["paths"], "GB/s"),
        Figure("8 clients, 8 stored models by FileResponse", rate["models"], "GB/s"),
        Figure("  ours, times that", rate["paths"] / rate["models"], "x"),
        Figure("memory of our service, peak above its start", peak / 1e6, "MB"),
        Figure("what the eight stored models take", used(stored) / 1e6, "MB"),
        Figure("what the registry takes, base and adapters", before / 1e6, "MB"),
        Figure("what its store has grown by", grown, "B", "0"),
    ]
    return rows, dict(samples)


def used(folder: Path) -> int:
    """Bytes of the stored objects below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and ".sqlite" not in file.name)


def memory(pid: int, field: str) -> int:
    """A figure of a process's memory, as its system counts it."""
    lines = Path(f"/proc/{psutil.Process(pid).pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def s3(bench: Bench) -> tuple[list[Figure], dict[str, object]]:
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
            return drained(hub_url(service, seeds, SHARD))

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
    rate = {name: size / running.median(values) / 1e9 for name, values in samples.items()}
    rows = [
        Figure("size of the shard in the bucket", size / 1e6, "MB"),
        Figure("merged over S3 by a service that has just started", rate["merged"], "GB/s"),
    ]
    if "boto3" in rate:
        rows.append(Figure("boto3 with CRT, the base's shard, to memory", rate["boto3"], "GB/s"))
        rows.append(Figure("  ours, times that", rate["merged"] / rate["boto3"], "x", "at least 0.5"))
    return rows, dict(samples)


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


def main(arguments: list[str] | None = None) -> Path:
    """Run the parts and print the table; the JSON file."""
    parser = argparse.ArgumentParser(prog="benchmarks.hub", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--tiny", action="store_true", help="a model of a few kB: shows that the benchmark works")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "registry-benchmarks")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer-python", help="the Python that has granian and boto3 with CRT, or none")
    options = parser.parse_args(arguments)
    python = running.peer_python(options.peer_python)
    options.cache.mkdir(parents=True, exist_ok=True)
    rows: list[Figure] = []
    samples: dict[str, object] = {}
    scratch = Path(tempfile.mkdtemp(prefix="hub-", dir=options.cache))
    home = Home.of_process(scratch)
    work = {"stream": stream, "many": many, "s3": s3}
    try:
        for part in options.parts.split(","):
            sys.stderr.write(f"{part}:\n")
            with ExitStack() as until:
                bench = Bench(home, options.cache, scratch, options.runs, options.tiny, python, until)
                figures, found = work[part](bench)
            rows += figures
            samples[part] = found
    finally:
        home.leave()
        shutil.rmtree(scratch, ignore_errors=True)
    print(running.table(f"Virtual files over HTTP, medians of {options.runs} alternating runs", rows))
    file = running.save("hub-tiny" if options.tiny else "hub", rows, samples)
    print(f"\nSamples: {file.name} in benchmarks/results")
    return file


if __name__ == "__main__":
    main()
