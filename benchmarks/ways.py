"""What it costs a Hub client to send weights by each way: in the commit, by LFS, by Xet; the server does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import running, synthetic
from benchmarks.machine import ROOT
from benchmarks.rows import Figure, Peer, Row
from benchmarks.running import Conditions, Sample
from benchmarks.service_transfer import SHAPE, run_json

COMMIT, LFS, XET = "within the commit", "by LFS", "by Xet"
_NO_XET: Final = {"HF_HUB_DISABLE_XET": "1"}


@dataclass
class Sending:
    """A server that takes everything, the folder that is sent, and where clients keep what they remember."""

    address: str
    folder: Path
    home: Path

    def by(self, view: str, settings: dict[str, str], out: Path) -> Sample:
        """Push once; ``sent``: bytes of all bodies."""
        before = self._taken()
        mine = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        # A client with Xet remembers what it has sent.
        settings = {"HF_HOME": str(self.home / out.name / str(before)), **settings}
        running.warm(self.folder)
        words = [sys.executable, "-m", "benchmarks.push_client", f"{self.address}/{view}", "t", str(self.folder), "a/b"]
        return {**run_json(words, {**mine, **settings}), "sent": self._taken() - before}

    def _taken(self) -> float:
        with urllib.request.urlopen(f"{self.address}/taken", timeout=10) as answer:
            return float(answer.read())


def rows(run: Conditions) -> Iterator[Row]:
    """Each way in turn, beside LFS."""
    shape = synthetic.TINY if run.quick else SHAPE
    folder = synthetic.adapter(run.cache, shape, seed=1, rank=4 if run.quick else 96)
    with ExitStack() as until:
        scratch = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="ways-", dir=run.cache)))
        command = [sys.executable, "-m", "benchmarks.ways_server"]
        server = until.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        until.callback(server.kill)
        assert server.stdout is not None
        sending = Sending(f"http://127.0.0.1:{int(server.stdout.readline())}", folder, scratch)
        sides: dict[str, Callable[[Path], Sample]] = {
            LFS: lambda out: sending.by("large", _NO_XET, out),
            COMMIT: lambda out: sending.by("regular", _NO_XET, out),
            XET: lambda out: sending.by("large", {}, out),
        }
        samples = running.alternate(sides, runs=run.runs(5), scratch=scratch)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    peer = Peer(LFS, Figure.of(samples[LFS]))
    for side in (COMMIT, XET):
        yield Row(f"{size:.0f} MB {side}", Figure.of(samples[side]), "s", peer)
    for side in sides:
        yield Row(f"  bytes that are sent {side}", Figure.of(samples[side], "sent", scale=1e-6), "MB")
