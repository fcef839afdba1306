"""A registry with merged models of 64 MB, and services of it whose memory, files and work are watched."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from registry.operations.registry import Registry
from registry.services.deployment import DATABASE
from registry.services.local import LocalRegistry
from tests.kit import Base, plain_base, write_adapter
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess

FAULTY = (sys.executable, "-m", "tests.journeys.fault_serving", "serve", "--host", "127.0.0.1", "--port", "0")
MIB = 1 << 20
PATIENCE = 60.0
CACHE = 32 * MIB
FILE = "model.safetensors"
SHAPES = {f"{name}.weight": (2048, 2048) for name in "abcd"}  # 16 MiB each; b and d are changed by nobody


@dataclass(frozen=True)
class Models:
    """The base model ``net`` and its adapters ``net/p0`` ... , in a registry in a folder."""

    folder: Path
    base: Base
    adapters: Mapping[str, Path]

    @classmethod
    def made(cls, folder: Path, count: int) -> Models:
        """Make them, with so many adapters."""
        base = plain_base(folder / "base", SHAPES)
        adapters = {f"p{n}": write_adapter(folder / f"p{n}", base, ["a", "c"], r=4, seed=n) for n in range(count)}
        found = cls(folder, base, adapters)
        with contextlib.closing(LocalRegistry.open(found.registry, create=True)) as registry:
            found.publish(registry)
        return found

    @property
    def registry(self) -> Path:
        """The folder of the registry."""
        return self.folder / "registry"

    def publish(self, registry: Registry) -> None:
        """Add all of it to a registry."""
        registry.add_base("net", self.base.folder)
        for name, adapter in self.adapters.items():
            registry.publish(adapter, f"net/{name}")

    @cache  # noqa: B019 - lives as long as the tests
    def merged(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes of the merged model, as `fetch` writes them."""
        with (
            contextlib.closing(LocalRegistry.open(self.registry, create=False)) as registry,
            registry.artifact(f"net/{path}", kind="merged") as artifact,
        ):
            return artifact.file(FILE).read(start, stop)

    def __hash__(self) -> int:
        return hash(self.folder)


@dataclass(frozen=True)
class Watched:
    """A service, seen from outside."""

    process: ServiceProcess
    view: str = "hf"

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def _proc(self) -> Path:
        return Path(f"/proc/{self.process.process.pid}")

    def memory(self, what: str = "VmHWM") -> int:
        """Bytes of main memory: the most so far, or with ``VmRSS`` now."""
        found = re.search(rf"^{what}:\s+(\d+) kB", (self._proc / "status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def files(self) -> int:
        """Open files and connections, without those to the database, which are kept for the next one."""
        found = []
        for link in (self._proc / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(link.readlink()))
        return sum(DATABASE not in name for name in found)

    def seconds(self) -> float:
        """Seconds of work of all threads so far."""
        words = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / 100

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 where there is none yet."""
        text = httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in text.splitlines() if re.match(rf"{name}(_total)?[ {{]", line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(part in line for part in wanted))

    def address(self, path: str = "p0", file: str = FILE) -> str:
        """Of a file at the commit that ``main`` has now."""
        repo = f"net/{path}"
        info = httpx.get(f"{self.url}/{self.view}/api/models/{repo}/revision/main", timeout=PATIENCE)
        assert info.status_code == 200, info.text
        return f"{self.url}/{self.view}/{repo}/resolve/{info.json()['sha']}/{file}"


def watched(
    home: Home, environ: Mapping[str, str], *options: str, limits: Mapping[str, float] | None = None, **more: str
) -> Watched:
    """Start a service, with limits that are narrower than an operator's."""
    narrowed = {"FAULT_LIMITS": json.dumps(limits)} if limits else {}
    return Watched(ServiceProcess.started(home, {**environ, **narrowed, **more}, options, command=FAULTY))


@contextlib.contextmanager
def reading(address: str, start: int | None = None, *, buffer: int = 1 << 16) -> Iterator[socket.socket]:
    """A client with a small buffer that has asked for a file and reads only what the test reads."""
    parts = urlsplit(address)
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        wire.settimeout(PATIENCE)
        wire.connect((parts.hostname, parts.port))
        asked = "" if start is None else f"Range: bytes={start}-\r\n"
        wire.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{asked}\r\n".encode())
        yield wire


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def received(address: str) -> tuple[bytes, bool]:
    """What a client got of a file, and whether it looks whole to it."""
    got = bytearray()
    with httpx.stream("GET", address, timeout=PATIENCE) as answer:
        assert answer.status_code == 200, answer.read()
        assert "transfer-encoding" not in answer.headers  # its clean end would look whole
        try:
            for piece in answer.iter_raw():
                got += piece
        except httpx.RemoteProtocolError:
            return bytes(got), False
    return bytes(got), True


def part(address: str, start: int, length: int = 1000) -> httpx.Response:
    """The answer to a range."""
    return httpx.get(address, headers={"Range": f"bytes={start}-{start + length - 1}"}, timeout=PATIENCE)


def rest(client: socket.socket, size: int) -> bytes:
    """The body of an answer whose head has begun."""
    data = bytearray()
    while b"\r\n\r\n" not in data or len(data) - data.index(b"\r\n\r\n") - 4 < size:
        piece = client.recv(MIB)
        assert piece, f"it ended after {len(data)} bytes"
        data += piece
    return bytes(data[data.index(b"\r\n\r\n") + 4 :])
