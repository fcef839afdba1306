"""The numerics fingerprint of this machine, remembered from one process to the next, so that it needs no torch.

It is remembered with all that it depends on: the processor, the build of torch, the code of the tensor core, the
format of artifacts, and the environment that torch reads when it is loaded. Any difference, or a file that is not
whole, probes anew. What is computed here never relies on it: once torch is loaded, the fingerprint is the probe's.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from registry import tensors
from registry.digest import canonical_json, document_digest, hex_of
from registry.tensors.artifacts.numerics import fingerprint
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT
from registry.version import __version__

_CPUINFO: Final = Path("/proc/cpuinfo")
_VARIES: Final = re.compile(
    r"processor|physical id|siblings|core id|cpu cores|(initial )?apicid|cpu MHz|bogomips", re.IGNORECASE
)
"""Lines of `_CPUINFO` that say which core it is and how fast it runs at the moment, and not what it can do."""
_READ_BY_TORCH: Final = re.compile(
    r"(MKL|OMP|KMP|GOMP|OPENBLAS|BLIS|DNNL|ONEDNN|ATEN|TORCH|PYTORCH|LD|GLIBC|NPY|VECLIB|ACCELERATE)_.*"
)
"""Variables that choose kernels, their threads or the libraries they come from."""
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}")


def machine_fingerprint(folder: Path) -> str:
    """The numerics fingerprint of this machine: as remembered in ``folder``, or else probed with torch and remembered.

    In a process that has loaded torch it is always probed: nobody knows in what environment that was.
    """
    if _torch_is_loaded() or (key := _key()) is None:
        return fingerprint()
    file = folder / f".numerics-{hex_of(document_digest(key))[:32]}.json"
    found = _remembered(file, key)
    if found is None:
        found = fingerprint()
        with suppress(OSError):  # such as another user's folder: the next process probes again
            _remember(file, _document(key, found))
    return found


def _torch_is_loaded() -> bool:
    return "torch" in sys.modules


def _remember(file: Path, document: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(canonical_json(document))
        os.replace(name, file)  # noqa: PTH105 - it has no other name yet
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _document(key: dict[str, Any], found: str) -> dict[str, Any]:
    document = {"key": key, "fingerprint": found}
    return document | {"digest": document_digest(document)}


def _remembered(file: Path, key: dict[str, Any]) -> str | None:
    try:
        document = json.loads(file.read_bytes())
        found = document["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(found, str) or not _FINGERPRINT.fullmatch(found) or document != _document(key, found):
        return None
    return found


def _key() -> dict[str, Any] | None:
    """Everything that the fingerprint depends on; None where the processor does not say what it is."""
    torch = find_spec("torch")  # finds it without loading it
    if torch is None or torch.origin is None:
        return None
    try:
        processors = _processors(_CPUINFO.read_text(encoding="utf-8", errors="replace"))
        home = Path(torch.origin).parent
        build = hashlib.sha256((home / "version.py").read_bytes()).hexdigest()
        libraries = _stamps(home, (home / "lib").iterdir())
        code = _stamps(Path(tensors.__path__[0]), Path(tensors.__path__[0]).rglob("*.py"))
    except OSError:
        return None
    return {
        "machine": [platform.machine(), *processors],
        "torch": [ascii(home), build, libraries],
        "environment": {name: ascii(value) for name, value in os.environ.items() if _READ_BY_TORCH.fullmatch(name)},
        "artifact_format": ARTIFACT_FORMAT,
        "code": [__version__, code],
    }


def _processors(text: str) -> list[str]:
    """What the cores can do, each kind of core once."""
    kinds = set()
    for core in text.split("\n\n"):
        lines = (line.partition(":") for line in core.splitlines())
        kinds.add("\n".join(f"{name.strip()}:{value}" for name, _, value in lines if not _VARIES.match(name)))
    return sorted(kinds - {""})


def _stamps(home: Path, files: Iterable[Path]) -> list[list[Any]]:
    """Name, size and time of change of each file."""
    stats = ((file, file.stat()) for file in sorted(files))
    return [[str(file.relative_to(home)), stat.st_size, stat.st_mtime_ns] for file, stat in stats]
