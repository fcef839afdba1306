"""An adapter of a few hundred MB through a real S3 server: the registry's client and service beside boto3 with CRT."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import running, synthetic
from benchmarks.running import Figure, Sample
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

    def measure(self, rank: int, runs: int, *, tiny: bool) -> tuple[list[Figure], dict[str, object]]:
        """Publish and fetch in turn with the peer."""
        from registry import connect
        from registry.catalogue.database.database import Database

        shape = synthetic.TINY if tiny else SHAPE
        folder = synthetic.adapter(self.cache, shape, seed=1, rank=rank)
        url = self.postgres.database()
        database = Database(url)
        database.prepare()
        database.dispose()
        address = start(self.home, url, self.s3, self.until)
        with closing(connect(address.url, address.token)) as remote:
            remote.add_base("llama", synthetic.base_model(self.cache, shape))
            remote.publish(folder, "llama/moved")
        running.warm(folder)
        (self.scratch / "moved").mkdir()
        samples = running.alternate(self._sides(address, folder), runs=runs, scratch=self.scratch / "moved")
        carried = blob_bytes(address)
        size = sum(file.stat().st_size for file in folder.iterdir())
        return _figures(samples, size, carried), {**samples, "bytes through the service": carried}

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
            DOWNLOAD: lambda out: _run([*client, "download", *known, "llama/moved@1", str(out)]),
            UPLOAD: lambda out: _run([*client, "upload", *known, str(changed(out)), "llama/moved"]),
        }
        return sides if self.python is None else {**sides, **self._peers(self.python, self.s3.place(), folder, changed)}

    def _peers(
        self, python: str, place: S3Place, folder: Path, changed: Callable[[Path], Path]
    ) -> dict[str, Callable[[Path], Sample]]:
        environ = {**os.environ, **place.environ}

        def boto(action: str, key: str, *words: str) -> Sample:
            return _run([python, "-m", "benchmarks.service_boto", action, place.bucket, key, *words], environ)

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


def _run(command: list[str], environ: Mapping[str, str] | None = None) -> Sample:
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


def _figures(samples: Mapping[str, list[Sample]], size: int, carried: float) -> list[Figure]:
    mid = {name: running.median(values) for name, values in samples.items()}
    cpu = {name: running.median(values, "cpu") for name, values in samples.items()}
    rows = [
        Figure("size of the adapter", size / 1e6, "MB"),
        Figure(DOWNLOAD, mid[DOWNLOAD], "s"),
        Figure("  CPU time of the client", cpu[DOWNLOAD], "s"),
    ]
    if BOTO_DOWNLOAD in mid:
        rows += [
            Figure(f"{BOTO_DOWNLOAD} of the same file, with CRT", mid[BOTO_DOWNLOAD], "s"),
            Figure("  its CPU time", cpu[BOTO_DOWNLOAD], "s"),
            Figure("  the registry, times boto3", mid[DOWNLOAD] / mid[BOTO_DOWNLOAD], "x", "at most 1.3"),
        ]
    rows.append(Figure(UPLOAD, mid[UPLOAD], "s"))
    stages = [name for name in samples[UPLOAD][0] if name not in ("seconds", "cpu")]
    rows += [Figure(f"  of which: {name}", running.median(samples[UPLOAD], name), "s") for name in stages]
    if BOTO_UPLOAD in mid:
        rows += [
            Figure(f"{BOTO_UPLOAD} of the same file, with CRT in one request", mid[BOTO_UPLOAD], "s"),
            Figure(f"{BOTO_PARTS} of the same file, without CRT", mid[BOTO_PARTS], "s"),
            Figure(
                "  the registry, times the faster of them",
                mid[UPLOAD] / min(mid[BOTO_UPLOAD], mid[BOTO_PARTS]),
                "x",
                "at most 2.2",
            ),
            Figure(f"{COPY}, of that file", mid[COPY], "s"),
            Figure(f"{READ}, of that file", mid[READ], "s"),
        ]
    rows.append(Figure("blob bytes between clients and the service", carried, "B", "0"))
    return rows
