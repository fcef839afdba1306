"""Reads the worst files, each in a child process of its own, and says what it took: one JSON line a file.

    python -m tests.fuzz.bound_worker SORT | SORT/NAME ...

A child is forked when everything is imported and the file is made, so that it measures nothing but the reading.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.errors import InvalidAdapterError, InvalidBaseError, RegistryError
from registry.files.header import read_header
from registry.files.source import BytesSource
from registry.tensors.checkpoint.patterns import PatternBudget, PatternMap
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.transfer.model_files import read_model_files
from tests.fuzz import worst_files

STOPPED_AFTER = 20
"""Seconds of processor time after which a child is killed."""
MEMORY = 4 << 30
"""Bytes of address space above what the child has."""


TABLE = worst_files.table()


def read_adapter(files: tuple[bytes, bytes]) -> None:
    header = read_header(BytesSource(files[1], "a file"), what="adapter_model.safetensors", error=InvalidAdapterError)
    read_checkpoint(parse_config(files[0]), header.entries, TABLE)


def read_file(file: bytes) -> None:
    read_header(BytesSource(file, "a file"), what="model.safetensors", error=InvalidBaseError)


def read_base(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        read_model_files(Path(folder))


SORTS: dict[str, tuple[dict[str, Callable[[], Any]], Callable[[Any], None]]] = {
    "adapters": (dict(worst_files.ADAPTERS), read_adapter),
    "configs": (dict(worst_files.CONFIGS), read_adapter),
    "patterns": (dict(worst_files.PATTERNS), read_adapter),
    "headers": (dict(worst_files.HEADERS), read_file),
    "bases": (dict(worst_files.BASES), read_base),
}


def peak() -> int:
    """The largest resident size since it was last reset, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def measure(read: Callable[[Any], None], files: Any) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak(), time.process_time()
    message = ""
    try:
        read(files)
        outcome = "accepted"
    except RegistryError as problem:
        outcome, message = problem.code, str(problem)
    except BaseException as problem:  # noqa: BLE001 (this is what is looked for)
        outcome, message = "traceback", repr(problem)[:500]
    seconds = time.process_time() - start
    return {"outcome": outcome, "message": message[:2000], "seconds": seconds, "bytes": peak() - before}


def in_a_child(read: Callable[[Any], None], files: Any) -> dict[str, Any]:
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        resource.setrlimit(resource.RLIMIT_CPU, (STOPPED_AFTER, STOPPED_AFTER))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY + 8 * (1 << 30), resource.RLIM_INFINITY))
        with os.fdopen(writable, "w") as stream:
            json.dump(measure(read, files), stream)
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    if text:
        found: dict[str, Any] = json.loads(text)
        return found
    return {"outcome": "killed", "message": "", "seconds": STOPPED_AFTER, "bytes": 0}


def yardstick() -> float:
    """Seconds for a fixed piece of work of the same sort: how fast this machine is now."""
    document = json.dumps({f"k{n}": [n, str(n), {"a": n / 3}] for n in range(20_000)})
    start = time.process_time()
    found = json.loads(document)
    keys = PatternMap({key: n for n, key in enumerate(found)}, field="rank_pattern", budget=PatternBudget())
    for key in found:
        keys.resolve(f"a.b.{key}")
    return time.process_time() - start


def main(wanted: list[str]) -> None:
    print(json.dumps({"yardstick": min(yardstick() for _ in range(3))}), flush=True)
    for text in wanted:
        sort, _, one = text.partition("/")
        makers, read = SORTS[sort]
        for name in [one] if one else makers:
            print(json.dumps({"sort": sort, "name": name} | in_a_child(read, makers[name]())), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
