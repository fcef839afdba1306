"""Following: what 10 to 999 names cost at rest, and how long a folder takes until it leads to what a tag names now.

A service of its own on SQLite, one adapter a name; CPU seconds of the follower and of the service, a round each. The
follower's default is a round every three seconds, in which 1 % of a core is 30 ms.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import synthetic
from benchmarks.rows import Figure, Goal, Row
from benchmarks.running import Conditions
from registry import connect
from registry.follow.folder import FolderSink
from registry.follow.rounds import Follower
from registry.services.local import LocalRegistry
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess

_COUNTS: Final = (10, 100, 999)  # with the base model 1,000, the most that one request asks of
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_ROUNDS: Final = 20


@dataclass
class Served:
    """A service, its registry, and names whose adapters are there."""

    service: ServiceProcess
    registry: LocalRegistry
    token: str
    adapters: tuple[Path, Path]
    names: list[str]

    def filled(self, count: int) -> list[str]:
        """The first ``count`` names, each of an adapter with one revision."""
        for number in range(len(self.names), count):
            path = f"llama/followed-{number}"
            self.registry.publish(self.adapters[0], path)
            self.registry.tag(f"{path}@1", "prod")
            self.names.append(f"{path}@prod")
        return self.names[:count]

    def spent(self) -> float:
        """CPU seconds of the service so far, user and system."""
        fields = Path(f"/proc/{self.service.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def at_rest(served: Served, names: list[str], room: Path, rounds: int) -> tuple[Figure, Figure]:
    """CPU milliseconds of a round in which nothing moved: of the follower, and of the service."""
    sink = FolderSink(str(room))
    with closing(connect(served.service.url, token=served.token)) as registry, sink.opened():
        follower = Follower(registry, names, sink, lambda _: None)
        follower.round()
        before, own = served.spent(), []
        for _ in range(rounds):
            start = time.process_time()
            if follower.round():
                raise AssertionError("a round at rest has problems")
            own.append(1000 * (time.process_time() - start))
        of_service = 1000 * (served.spent() - before) / rounds
    return Figure(statistics.median(own), low=min(own), high=max(own), runs=rounds), Figure(of_service, runs=rounds)


def moved(served: Served, room: Path, moves: int) -> Figure:
    """Seconds from a moved tag until the link leads to its revision, with a follower in a process of its own."""
    path = "llama/moved"
    for adapter in served.adapters:
        served.registry.publish(adapter, path)
    served.registry.tag(f"{path}@1", "prod")
    command = [sys.executable, "-m", "registry", "follow", f"{path}@prod", "--to", f"folder={room}", "--json"]
    settings = {"REGISTRY_URL": served.service.url, "REGISTRY_TOKEN": served.token}
    environ = os.environ | settings | {"REGISTRY_CACHE_DIR": str(room.parent / "cache")}
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
        try:
            link, seconds = room / "llama--moved@prod", []
            _until(link.is_dir, process)
            for turn, number in zip(range(moves), itertools.cycle((2, 1)), strict=False):
                time.sleep(0.37 * turn % 3)  # at any moment between two rounds
                start = time.perf_counter()
                served.registry.tag(f"{path}@{number}", "prod")
                _until(partial(_leads, link, number), process)
                seconds.append(time.perf_counter() - start)
        finally:
            process.kill()
    return Figure(statistics.median(seconds), low=min(seconds), high=max(seconds), runs=moves)


def _leads(link: Path, number: int) -> bool:
    return f"@{number}-" in str(link.readlink())


def _until(done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not done():
        if process.poll() is not None:
            raise AssertionError("the follower ended")
        time.sleep(0.005)


def rows(run: Conditions) -> Iterator[Row]:
    """Names at rest, then tags that move."""
    shape = synthetic.TINY
    adapters = (
        synthetic.adapter(run.cache, shape, seed=1, rank=4),
        synthetic.adapter(run.cache, shape, seed=2, rank=4),
    )
    with ExitStack() as until:
        scratch = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="follow-", dir=run.cache)))
        home = Home.of_process(scratch)
        until.callback(home.leave)
        registry = until.enter_context(closing(LocalRegistry.open(scratch / "registry")))
        registry.add_base("llama", synthetic.base_model(run.cache, shape))
        token = registry.create_token("reader", name="bench").secret
        service = ServiceProcess.started(home, {"REGISTRY_URL": str(scratch / "registry")})
        until.callback(service.close)
        served = Served(service, registry, token, adapters, [])
        for count in _COUNTS[:1] if run.quick else _COUNTS:
            names = served.filled(count)
            own, of_service = at_rest(served, names, scratch / f"folder-{count}", 2 if run.quick else _ROUNDS)
            goal = Goal("at most", 30.0, of="figure") if count == _COUNTS[-1] else None
            yield Row(f"CPU of a round of {count} names at rest, the follower", own, "ms", goal=goal)
            yield Row("  the service", of_service, "ms")
        figure = moved(served, scratch / "moved", 2 if run.quick else _ROUNDS)
        yield Row(
            "from a moved tag to the folder's link, a round every 3 s", figure, "s", goal=Goal("at most", 5.0, "figure")
        )
