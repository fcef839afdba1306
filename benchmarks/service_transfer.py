"""An adapter of a few hundred MB through a real S3 server: the registry's client and service beside boto3 with CRT."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import running, synthetic
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from benchmarks.service import servers
from benchmarks.service_http import Address, start
from benchmarks.service_race import ROOT
from tests.kit.servers import Postgres, S3Place, S3Server
from tests.kit.servers_home import Home

SHAPE = synthetic.Shape(hidden=1024, intermediate=2816, layers=8, heads=16, kv_heads=4, vocab=4096, shards=1)
WEIGHTS = "adapter_model.safetensors"
DOWNLOAD, UPLOAD = "the registry, download", "the registry, upload"
BOTO_DOWNLOAD, BOTO_UPLOAD, BOTO_PARTS = "boto3, download", "boto3, upload", "boto3, upload in parts"
COPY, READ = "one copy in the store", "one read and sha256"


@dataclass(frozen=True)
class Moved:
    """What a transfer needs. Without ``python``, the peer stays out."""

    home: Home
    postgres: Postgres
    s3: S3Server
    until: ExitStack
    scratch: Path
    cache: Path
    python: str | None

    def measure(self, rank: int, runs: int, *, tiny: bool) -> tuple[dict[str, list[Sample]], int, float]:
        """Publish and fetch in turn with the peer: samples by side, bytes of the adapter, bytes through the service."""
        from registry import connect
        from registry.catalogue.database.database import Database

        shape = synthetic.TINY if tiny else SHAPE
        folder = synthetic.adapter(self.cache, shape, seed=1, rank=rank)
        url = self.postgres.database()
        database = Database(url)
        database.prepare()
        database.dispose()
        address, _ = start(self.home, url, self.s3, self.until)
        with closing(connect(address.url, address.token)) as remote:
            remote.add_base("llama", synthetic.base_model(self.cache, shape))
            remote.publish(folder, "llama/moved")
        running.warm(folder)
        (self.scratch / "moved").mkdir()
        samples = running.alternate(self._sides(address, folder), runs=runs, scratch=self.scratch / "moved")
        carried = blob_bytes(address)
        size = sum(file.stat().st_size for file in folder.iterdir())
        return samples, size, carried

    def _sides(self, address: Address, folder: Path) -> dict[str, Callable[[Path], Sample]]:
        turn = 0

        def changed(out: Path) -> Path:
            """Bytes that the store does not hold yet."""
            nonlocal turn
            turn += 1
            shutil.copytree(folder, out)
            with (out / WEIGHTS).open("r+b") as file:
                file.seek(-4, 2)
                file.write(bytes([turn % 256, turn // 256, 0, 0x3A]))
            running.warm(out)
            return out

        client = [sys.executable, "-m", "benchmarks.service_client"]
        known = [address.url, address.token]
        sides: dict[str, Callable[[Path], Sample]] = {
            DOWNLOAD: lambda out: run_json([*client, "download", *known, "llama/moved@1", str(out)]),
            UPLOAD: lambda out: run_json([*client, "upload", *known, str(changed(out)), "llama/moved"]),
        }
        return sides if self.python is None else {**sides, **self._peers(self.python, self.s3.place(), folder, changed)}

    def _peers(
        self, python: str, place: S3Place, folder: Path, changed: Callable[[Path], Path]
    ) -> dict[str, Callable[[Path], Sample]]:
        environ = {**os.environ, **place.environ}

        def boto(action: str, key: str, *words: str) -> Sample:
            return run_json([python, "-m", "benchmarks.service_boto", action, place.bucket, key, *words], environ)

        def download(out: Path) -> Sample:
            out.mkdir()
            return boto("download", "moved", str(out / WEIGHTS))

        boto("upload", "moved", str(folder / WEIGHTS))
        return {
            BOTO_DOWNLOAD: download,
            BOTO_UPLOAD: lambda out: boto("upload", "again", str(changed(out) / WEIGHTS)),
            BOTO_PARTS: lambda out: boto("upload-parts", "again", str(changed(out) / WEIGHTS)),
            COPY: lambda _out: boto("copy", "moved", "copied"),
            READ: lambda _out: boto("read", "moved"),
        }


def run_json(command: list[str], environ: Mapping[str, str] | None = None) -> Sample:
    """What a command prints as its last line."""
    done = subprocess.run(command, cwd=ROOT, env=environ, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:4])} failed:\n{done.stderr}")
    answer: Sample = json.loads(done.stdout.splitlines()[-1])
    return answer


def blob_bytes(address: Address) -> float:
    """The bytes of bodies that are not JSON which the service has taken and given so far."""
    with urllib.request.urlopen(f"{address.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("registry_body_bytes_total"))


def rows(run: Conditions) -> Iterator[Row]:
    """A download and an upload in turn with boto3's."""
    with servers(run) as found:
        moved = Moved(found.home, found.postgres, found.s3, found.until, found.scratch, run.cache, run.python)
        samples, size, carried = moved.measure(64 if run.quick else 1024, run.runs(5), tiny=run.quick)
    of = {name: Figure.of(values) for name, values in samples.items()}
    what = f"of {size / 1e6:.0f} MB through presigned S3"
    down = Peer(f"{BOTO_DOWNLOAD}, CRT", of[BOTO_DOWNLOAD]) if BOTO_DOWNLOAD in of else None
    yield Row(f"download {what}", of[DOWNLOAD], "s", down, Goal("at most", 1.3, of="ratio"))
    up = None
    if BOTO_UPLOAD in of:
        faster = min((BOTO_UPLOAD, BOTO_PARTS), key=lambda name: of[name].value)
        up = Peer(f"{faster}, the faster of CRT and parts", of[faster])
    yield Row(f"upload {what}", of[UPLOAD], "s", up, Goal("at most", 2.0, of="ratio"))
    for stage in [name for name in samples[UPLOAD][0] if name not in {"seconds", "cpu"}]:
        yield Row(f"  upload, of which: {stage}", Figure(running.median(samples[UPLOAD], stage)), "s")
    for name in (COPY, READ):
        if name in of:
            yield Row(f"  {name}, of that file", of[name], "s")
    yield Row("blob bytes between clients and the service", Figure(carried), "B", goal=Goal("at most", 0, of="figure"))
