"""What strangers give and only large libraries read (configurations, pickles) is read in a child with limits.

The child has limits on time and memory, and neither sockets nor processes. Old versions of PEFT wrote
``adapter_model.bin``, a pickle: torch reads it with ``weights_only=True``, which knows tensors and plain containers and
nothing else, and its tensors are written as a safetensors file. This file is also the script of that child
(``python -I limited.py CPU_SECONDS MEMORY_BYTES``): it knows no package before it has read where packages lie, so
nothing else of this package is imported at the top.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

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


_SECONDS: Final = 120.0
"""For a small pickle; importing torch takes some of them on a busy machine."""
_RATE: Final = 20e6
"""Bytes a second that are read and written at least."""
_MEMORY: Final = 2 << 30
_TIMES_MEMORY: Final = 4
"""Bytes of memory for each of the pickle: its tensors, a copy, and what is written."""
_TIMES_SIZE: Final = 2
"""Bytes of tensors for each of the pickle: some may share their memory, and views of one element may claim any size."""
_ASKED: Final = re.compile(r"GLOBAL (\S+)")
_ADVICE: Final = "save the adapter again as safetensors, with save_pretrained, where it was made."


def convert_pickle(pickle: Path, out: Path) -> None:
    """Write the tensors of a pickle to a new file, as PEFT would have; the same bytes every time.

    Raises:
        InvalidAdapterError: ``pickle``, it holds something else than tensors by their names, or is damaged.
    """
    from registry.errors import InvalidAdapterError

    size = pickle.stat().st_size
    seconds = _SECONDS + size / _RATE
    request = {"path": package_folders(), "pickle": str(pickle.absolute()), "out": str(out), "most": _TIMES_SIZE * size}
    limits = [str(int(seconds)), str(_MEMORY + _TIMES_MEMORY * size)]
    try:
        said = json.loads(run_script(__file__, limits, json.dumps(request).encode(), seconds))
        problem = said["refused"]
    except TimeoutError:
        problem = f"reading it took longer than {seconds:.0f} s"
    except ValueError:
        problem = "reading it ended without a result, as where it asks for too much memory"
    if problem is not None:
        out.unlink(missing_ok=True)
        raise InvalidAdapterError(
            f"{pickle} is a pickle of which nothing but tensors is read, and {problem}: {_ADVICE}", code="pickle"
        )


def write_tensors(pickle: str, out: str, most: int) -> str | None:
    """In the child: write the file; or why it is refused, as a clause."""
    import torch
    from safetensors.torch import save_file

    found = torch.load(pickle, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not found:
        return "it holds no tensors by their names"
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            return f"it holds {str(name)[:80]!r}, which is no tensor"
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            return f"tensor {name[:80]!r} is none that safetensors can hold"
    total = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
    if total > most:
        return f"its tensors claim {total} bytes, more than it can hold"
    plain = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}
    save_file(plain, out, metadata={"format": "pt"})
    return None


def answer(request: dict[str, Any]) -> dict[str, str | None]:
    """The answer to a request; every fault of a pickle is an answer too."""
    try:
        return {"refused": write_tensors(request["pickle"], request["out"], request["most"])}
    except MemoryError:
        return {"refused": "it asks for more memory than is allowed for this"}
    except Exception as error:  # noqa: BLE001 (a stranger's pickle can make torch raise anything at all)
        return {"refused": _told(error)}


def _told(error: Exception) -> str:
    """Why torch did not read it, without its advice to trust the file."""
    if (asked := _ASKED.search(str(error))) is not None:
        return f"it asks for {asked[1][:80]}"
    return f"it is damaged or holds something else ({type(error).__name__})"


def main() -> NoReturn:
    """Read the request, set the limits, write, answer, and end at once."""
    seconds, memory = int(sys.argv[1]), int(sys.argv[2])
    stdout = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not end up in the answer
    request = json.load(sys.stdin.buffer)
    sys.path[:] = [*request["path"], str(Path(__file__).parents[2])]
    # everything else of this package that the child needs is in this file

    set_limits(seconds, memory)
    import torch  # noqa: F401 (before that nothing may be started: loading it may)

    stay_inside(RuntimeError("it needs something outside this process"))
    text = json.dumps(answer(request))
    with os.fdopen(stdout, "w", encoding="utf-8") as out:
        out.write(text)
    os._exit(0)


if __name__ == "__main__":
    main()
