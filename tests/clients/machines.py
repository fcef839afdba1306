"""The machine of somebody who uses a client: its own environment, cache and token, and nothing of ours.

A program (`program.py`) does steps in one process of the client's Python and says what came of each. All that
leaves the process for another address than the endpoint is refused and found afterwards.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).parent
PROGRAM = HERE / "program.py"
PATIENCE = 300.0

Step = dict[str, Any]


def step(do: str, **given: Any) -> Step:
    """One call of a function of `program.py`."""
    return {"do": do, **given}


@dataclass(frozen=True)
class ClientSet:
    """A Python environment with clients of certain versions."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def version(self, package: str) -> tuple[int, ...]:
        """The first two numbers of a package's version."""
        return _versions(self.python)[package]


@cache
def _versions(python: Path) -> dict[str, tuple[int, ...]]:
    names = ["huggingface_hub", "transformers", "peft"]
    asked = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    said = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    return {name: tuple(map(int, text.split(".")[:2])) for name, text in json.loads(said.stdout).items()}


def chosen() -> ClientSet:
    """The set that these tests are about: the environment that `CLIENTS` names, else this one, the newest.

    Raises:
        AssertionError: it is not there. Nothing is skipped for it.
    """
    found = ClientSet(Path(os.environ.get("CLIENTS", sys.prefix)).absolute())
    assert found.python.is_file(), f"No Python in {found.folder}: `make test-long ONLY=clients` makes it."
    return found


@dataclass(frozen=True)
class Outcome:
    """What came of a step: a value, or an error of the client."""

    value: Any
    error: tuple[str, ...] = ()  # names of the error's class and of those above it
    text: str = ""

    def must(self) -> Any:
        """The value."""
        assert not self.error, f"{self.error[0]}: {self.text}"
        return self.value


class Asked:
    """Steps that a program is doing."""

    def __init__(self, machine: Machine, process: subprocess.Popen[str]) -> None:
        self._machine, self._process = machine, process
        self._deadline = threading.Timer(PATIENCE, process.kill)
        self._deadline.start()

    def outcomes(self) -> list[Outcome]:
        """Wait for what comes of them."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._deadline.cancel()
        assert line, f"the program has ended:\n{self._machine.said}"
        self._machine.nothing_left()
        return [Outcome(**one) for one in json.loads(line)]

    def values(self) -> list[Any]:
        """The same where every step succeeds."""
        return [one.must() for one in self.outcomes()]


@dataclass
class Machine:
    """A home folder, an endpoint, a token, and one program, which is started by the first steps.

    ``settings`` are further environment variables.
    """

    clients: ClientSet
    folder: Path
    endpoint: str
    token: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()  # further addresses that may be reached: host:port
    _program: subprocess.Popen[str] | None = field(default=None, init=False, repr=False)
    _trap: socket.socket = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._trap = socket.create_server(("127.0.0.1", 0))
        self._trap.setblocking(False)

    def close(self) -> None:
        """End the program; the next steps start another, which finds what this one has left in its cache."""
        if self._program is not None:
            self._program.kill()  # torch takes seconds to end
            self._program.communicate()
            self._program = None

    def leave(self) -> None:
        """The end of this machine."""
        self.close()
        self._trap.close()

    @property
    def said(self) -> str:
        """What the clients wrote to stderr."""
        return (self.folder / "said").read_text(errors="replace")

    @property
    def environ(self) -> dict[str, str]:
        """All environment variables of its processes."""
        proxy = f"http://127.0.0.1:{self._trap.getsockname()[1]}"
        token = {} if self.token is None else {"HF_TOKEN": self.token}
        return {
            "PATH": f"{self.clients.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "HF_HOME": str(self.folder / "hf"),
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",  # the command line asks once a day for its own newest version
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy,
            "ALL_PROXY": proxy,
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONPATH": str(HERE / "guard"),
            "GUARD_RECORD": str(self.folder / "refused"),
            "GUARD_ALLOWED": " ".join((urlsplit(self.endpoint).netloc, *self.beside)),
            **token,
            **self.settings,
        }

    def start(self, *steps: Step) -> Asked:
        """Begin to do steps in the program."""
        if self._program is None:
            with (self.folder / "said").open("a") as said:
                self._program = subprocess.Popen(
                    [self.clients.python, PROGRAM],
                    cwd=self.folder,
                    env=self.environ,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                )
        assert self._program.stdin is not None
        print(json.dumps(steps), file=self._program.stdin, flush=True)
        return Asked(self, self._program)

    def try_steps(self, *steps: Step) -> list[Outcome]:
        """Do steps; what came of each."""
        return self.start(*steps).outcomes()

    def run(self, *steps: Step) -> list[Any]:
        """Do steps, which all succeed; their values."""
        return self.start(*steps).values()

    def refused(self, one: Step) -> Outcome:
        """Do a step, which fails."""
        (outcome,) = self.try_steps(one)
        assert outcome.error, f"{one} is expected to fail, it gave {outcome.value}"
        return outcome

    def shell(self, commands: str, exit_code: int = 0) -> str:
        """Run shell commands as this machine's user types them; what they print."""
        done = subprocess.run(
            ["sh", "-eu", "-c", commands],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == exit_code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        self.nothing_left()
        return done.stdout

    def nothing_left(self) -> None:
        """Nobody tried to reach anything but the endpoint, by Python's sockets or by a proxy.

        Raises:
            AssertionError: somebody did; it says where to.
        """
        record = self.folder / "refused"
        assert not record.exists(), f"left the endpoint: {record.read_text().split()}"
        try:
            connection, _ = self._trap.accept()
        except BlockingIOError:
            return
        with connection:
            connection.settimeout(5)
            raise AssertionError(f"left the endpoint by the proxy: {connection.recv(4096)!r}")
