"""Where real servers run for tests: a folder, its processes, and the promise that nothing is left after the run.

A `Home` belongs to one test process, or to all worker processes of one run. The first who comes starts a keeper
(`servers_keeper`); it ends all servers of the home and removes the folder as soon as no test process uses it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

PATIENCE = 240.0  # seconds until a server that does not come up is an error; a loaded machine may need many
KEEPER = Path(__file__).with_name("servers_keeper.py")


class ServerError(AssertionError):
    """A server that a test needs does not run; the message holds what the server wrote."""


@dataclass(frozen=True)
class Home:
    """A folder whose servers end when the last test process that uses it ends."""

    folder: Path
    lock: IO[bytes]  # shared; held until this process ends

    @classmethod
    def of_process(cls, place: Path) -> Home:
        """A home of this process alone. ``place`` is for its lock; its folder lies elsewhere, see `of_run`."""
        return cls._made(place / f"servers-{os.getpid()}.lock")

    @classmethod
    def of_run(cls, place: Path) -> Home:
        """The home of all processes that give the same ``place``; made by the first.

        Its folder lies in the system's folder for temporary files with a short name, which another user may enter:
        PostgreSQL does not run as root.
        """
        with held(place / "servers-start.lock"):
            noted = place / "servers-home"
            lock = (place / "servers.lock").open("a+b")
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits while a keeper is just ending a former home
            if noted.exists() and Path(noted.read_text()).is_dir():
                return cls(Path(noted.read_text()), lock)
            lock.close()
            home = cls._made(place / "servers.lock")
            noted.write_text(str(home.folder))
            return home

    @classmethod
    def _made(cls, lock: Path) -> Home:
        stream = lock.open("a+b")
        fcntl.flock(stream, fcntl.LOCK_SH)
        folder = Path(tempfile.mkdtemp(prefix="registry-servers-"))
        folder.chmod(0o711)
        (folder / "pids").mkdir()
        with lock.with_suffix(".log").open("ab") as log:  # of its own: who reads ours waits for its end
            command = [sys.executable, str(KEEPER), str(lock), str(folder)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return cls(folder, stream)

    def leave(self) -> None:
        """This process needs the servers no more; when nobody does, they end."""
        self.lock.close()

    def room(self, kind: str) -> Path:
        """A new folder for one server."""
        folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=self.folder))
        folder.chmod(0o711)
        return folder

    def run(
        self,
        command: Sequence[str],
        room: Path,
        *,
        ended_by: signal.Signals = signal.SIGKILL,
        environ: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own; its output goes to the files ``stdout`` and ``stderr`` in ``room``.

        ``ended_by`` ends it at once and leaves nothing behind.
        """
        with (room / "stdout").open("ab") as out, (room / "stderr").open("ab") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environ,
                cwd=room if user else None,  # the other user may not read ours
                user=user,
                group=_group(user),
                extra_groups=None if user is None else [],
                start_new_session=True,
            )
        note = self.folder / "pids" / str(process.pid)
        note.write_text(f"{psutil.Process(process.pid).create_time()} {int(ended_by)}")
        return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """A process has ended and was waited for."""
        (self.folder / "pids" / str(process.pid)).unlink(missing_ok=True)

    def once(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What the first caller of all processes made, as JSON; the others wait for it."""
        with held(self.folder / f"{name}.lock"):
            told = self.folder / f"{name}.json"
            if not told.exists():
                told.write_text(json.dumps(make()))
            document: dict[str, Any] = json.loads(told.read_text())
            return document


def _group(user: str | None) -> int | None:
    if user is None:
        return None
    import pwd

    return pwd.getpwnam(user).pw_gid


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Hold a lock file for this process alone."""
    with lock.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def output(room: Path) -> str:
    """What a server wrote, for messages."""
    parts = [(room / name).read_text(errors="replace") for name in ("stdout", "stderr") if (room / name).exists()]
    return "".join(parts).strip() or "(it wrote nothing)"


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], room: Path, what: str) -> None:
    """Wait until a server that was just started answers.

    Raises:
        ServerError: it ended, or does not come up.
    """
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None:
            raise ServerError(f"{what} ended at once with {process.returncode}:\n{output(room)}")
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise ServerError(f"{what} did not come up in {PATIENCE:.0f} s:\n{output(room)}")
        time.sleep(0.02)


def end(process: subprocess.Popen[bytes], number: signal.Signals, room: Path, what: str) -> int:
    """Send a signal and wait for the end; the exit status.

    Raises:
        ServerError: it is still there after a while.
    """
    process.send_signal(number)
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise ServerError(f"{what} did not end after {number.name}:\n{output(room)}") from None


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def remove(room: Path) -> None:
    """Remove the folder of a server that has ended."""
    shutil.rmtree(room)
