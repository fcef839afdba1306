"""Runs a script in a child process with limits on time and memory, for what strangers give: configurations, pickles.

The child knows no package before it has read where packages lie, so nothing else of this package is imported here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

KEPT_VARIABLES: Final = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
SET_VARIABLES: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "USE_TF": "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
_REFUSED_EVENTS: Final = frozenset(
    {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn"}
)


def package_folders() -> list[str]:
    """Where the child finds packages: not in the current folder, which may be the stranger's."""
    return [entry for entry in sys.path if entry and Path(entry).absolute() != Path.cwd()]


def run_script(script: str, arguments: list[str], request: bytes, time_limit: float) -> bytes:
    """The script's standard output, empty where it died; it and all that it started are gone when this returns.

    Args:
        script: a file of this package, run in isolated mode.
        arguments: of the script.
        request: its standard input.
        time_limit: in seconds, of the clock.

    Raises:
        TimeoutError: it took longer, by the clock or by the processor time that it may take itself.
    """
    environment = {key: os.environ[key] for key in KEPT_VARIABLES if key in os.environ} | SET_VARIABLES
    with subprocess.Popen(  # noqa: S603 (this interpreter, a file of this package, numbers)
        [sys.executable, "-I", "-X", "utf8", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=os.sep,
        env=environment,
        start_new_session=True,
    ) as child:
        try:
            out, _ = child.communicate(request, timeout=time_limit)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"{time_limit:g} s") from error
            raise
    if child.returncode == -signal.SIGXCPU:
        raise TimeoutError(f"{time_limit:g} s")
    return out


def set_limits(seconds: int, memory: int) -> None:
    """In the child: at most so much processor time, and so many bytes of private memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def stay_inside(refusal: Exception) -> None:
    """In the child, from here on: no sockets and no new processes; ``refusal`` is raised instead."""

    def refuse(event: str, _: object) -> None:
        if event in _REFUSED_EVENTS:
            raise refusal

    sys.addaudithook(refuse)
