"""Writes the tensors of a pickle as a safetensors file, without running anything that is in the pickle.

Old versions of PEFT wrote ``adapter_model.bin``. torch reads it with ``weights_only=True``, which knows tensors and
plain containers and nothing else, in a child process with limits on time and memory. This file is also the script of
that child (``python -I pickled.py CPU_SECONDS MEMORY_BYTES``), so it imports what it needs where it needs it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

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


def convert(pickle: Path, out: Path) -> None:
    """Write the tensors of a pickle to a new file, as PEFT would have; the same bytes every time.

    Raises:
        InvalidAdapterError: ``pickle``, it holds something else than tensors by their names, or is damaged.
    """
    from registry.errors import InvalidAdapterError
    from registry.tensors.limited import package_folders, run_script

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
    from registry.tensors.limited import set_limits, stay_inside

    set_limits(seconds, memory)
    import torch  # noqa: F401 (before that nothing may be started: loading it may)

    stay_inside(RuntimeError("it needs something outside this process"))
    text = json.dumps(answer(request))
    with os.fdopen(stdout, "w", encoding="utf-8") as out:
        out.write(text)
    os._exit(0)


if __name__ == "__main__":
    main()
