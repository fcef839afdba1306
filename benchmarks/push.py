"""An adapter of 50 MB pushed by huggingface_hub, beside `registry publish` of the same bytes to the same service.

With the environment that `registry env` prints, its weights go by LFS; without it, as base64 within the commit.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import running, synthetic
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from benchmarks.service_transfer import SHAPE, WEIGHTS, run_json
from registry.app import hub_settings
from registry.services.local import LocalRegistry
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess

PUSH, INLINE, PUBLISH = "push", "push within the commit", "publish"
_MIB = 1 << 20


@dataclass
class Pushed:
    """A service of a registry in a folder, and an adapter of which each run sends other bytes."""

    service: ServiceProcess
    token: str
    folder: Path
    _turns: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def sides(self) -> dict[str, Callable[[Path], Sample]]:
        """The pushes, and the publish."""
        return {
            PUBLISH: lambda out: self._send("service_client", "upload", out),
            PUSH: lambda out: self._push(out, hub_settings(self.service.url, "merged")),
            INLINE: lambda out: self._push(out, {}),
        }

    def _push(self, out: Path, settings: Mapping[str, str]) -> Sample:
        before = self.memory()
        return {**self._send("push_client", "", out, settings), "memory": self.memory() - before}

    def _send(self, module: str, action: str, out: Path, settings: Mapping[str, str] = {}) -> Sample:
        turn = next(self._turns)
        shutil.copytree(self.folder, out)
        with (out / WEIGHTS).open("r+b") as file:  # bytes that the store does not hold yet
            file.seek(-4, 2)
            file.write(bytes([turn % 256, turn // 256, 0, 0x3A]))
        running.warm(out)
        words = [sys.executable, "-m", f"benchmarks.{module}", *([action] if action else [])]
        mine = {name: value for name, value in os.environ.items() if not name.startswith("HF_HUB_")}
        return run_json([*words, self.service.url, self.token, str(out), f"llama/pushed-{turn}"], {**mine, **settings})

    def memory(self) -> float:
        """The most memory that the service has had so far, in MiB."""
        lines = Path(f"/proc/{self.service.process.pid}/status").read_text(encoding="ascii").splitlines()
        peak = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024 / _MIB


def rows(run: Conditions) -> Iterator[Row]:
    """All in turn, and what a push takes of the service's memory."""
    shape = synthetic.TINY if run.quick else SHAPE
    folder = synthetic.adapter(run.cache, shape, seed=1, rank=4 if run.quick else 96)
    with ExitStack() as until:
        scratch = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="push-", dir=run.cache)))
        home = Home.of_process(scratch)
        until.callback(home.leave)
        with closing(LocalRegistry.open(scratch / "registry")) as registry:
            registry.add_base("llama", synthetic.base_model(run.cache, shape))
            token = registry.create_token("writer", name="bench").secret
        service = ServiceProcess.started(home, {"REGISTRY_URL": str(scratch / "registry")})
        until.callback(service.close)
        pushed = Pushed(service, token, folder)
        for name, side in pushed.sides().items():  # the first of each imports what the service needs
            side(scratch / name.replace(" ", "-"))
        (scratch / "out-of").mkdir()
        samples = running.alternate(pushed.sides(), runs=run.runs(5), scratch=scratch / "out-of")
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    peer = Peer("registry publish over HTTP", Figure.of(samples[PUBLISH]))
    what = f"push of {size:.0f} MB by huggingface_hub"
    yield Row(what, Figure.of(samples[PUSH]), "s", peer, Goal("at most", 1.5, of="ratio"))
    yield Row("  without what `registry env` prints", Figure.of(samples[INLINE]), "s", peer)
    most = Figure(max(sample["memory"] for name in (PUSH, INLINE) for sample in samples[name]))
    yield Row("  memory of the service that a push adds", most, "MiB", goal=Goal("at most", 64, of="figure"))
