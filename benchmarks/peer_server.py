"""Servers of peers: ordinary processes that answer on a port of this machine until the benchmark is done."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.machine import ROOT
from tests.kit import servers_home
from tests.kit.servers_home import Home


@dataclass(frozen=True)
class PeerServer:
    """Where it answers, and its process."""

    url: str
    pid: int


@contextmanager
def running(home: Home, command: Sequence[str], port: int, path: str) -> Iterator[PeerServer]:
    """A server that is ready once a GET of ``path`` succeeds."""
    room = home.room("peer")
    process = home.run(list(command), room, environ={**os.environ, "PYTHONPATH": str(ROOT)})
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/{path}", timeout=5):
                return True
        except OSError:
            return False

    try:
        servers_home.wait_until(ready, process, room, "The peer")
        yield PeerServer(url, process.pid)
    finally:
        process.terminate()
        process.wait()
        home.forget(process)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and those below it."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def bare(body: bytes, folder: Path) -> tuple[list[str], int]:
    """The command of the floor of a request, an app that answers with these bytes, and its port."""
    file, port = folder / "answer", servers_home.free_port()
    file.write_bytes(body)
    return [sys.executable, "-m", "benchmarks.bare_app", str(file), str(port)], port
