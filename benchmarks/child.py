"""One measured piece of work in a process of its own; prints a JSON line of seconds and bytes.

The time of imports is told apart, and peak memory is what the work needed above that after the imports.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
import time
from collections.abc import Callable
from pathlib import Path


def _status(field: str) -> int:
    """A size from the kernel's account of this process, in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)


class Measure:
    """Seconds and memory of one piece of work, from the end of the imports."""

    def __init__(self, imported: float) -> None:
        self._imports = imported
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
        except OSError:
            sys.stderr.write("The peak of memory can't be reset here: that of the imports counts too.\n")
        self._before = _status("VmRSS")
        self._began, self._cpu = time.perf_counter(), time.process_time()

    @property
    def cpu(self) -> float:
        """CPU seconds of this process since the start."""
        return time.process_time() - self._cpu

    def report(self, **more: float) -> None:
        """Print what was measured since the start."""
        seconds, cpu = time.perf_counter() - self._began, self.cpu
        peak = _status("VmHWM") - self._before
        print(json.dumps({"seconds": seconds, "cpu": cpu, "imports": self._imports, "peak": peak, **more}))


def _import_ours() -> float:
    """Import all that our side may load, most of which it loads when it is first needed; seconds."""
    start = time.perf_counter()
    import torch  # noqa: F401  its import isn't part of the work, whichever module asks for it first

    import registry.services

    for module in pkgutil.walk_packages(registry.services.__path__, "registry.services."):
        importlib.import_module(module.name)
    return time.perf_counter() - start


def fetch(registry: str, reference: str, out: str) -> None:
    """Our merge to disk, until the bytes are on the medium."""
    imports = _import_ours()
    from registry.services.local import LocalRegistry

    measure = Measure(imports)
    with_registry = LocalRegistry.open(Path(registry))
    opened = time.perf_counter()
    with_registry.fetch(reference, out, kind="merged")
    fetched = time.perf_counter()
    os.sync()
    measure.report(fetch=fetched - opened, sync=time.perf_counter() - fetched)
    with_registry.close()


def fetch_parts(registry: str, reference: str, out: str) -> None:
    """The same, in CPU seconds by part."""
    imports = _import_ours()
    from benchmarks import merge_parts
    from registry.services.local import LocalRegistry

    measure = Measure(imports)
    with merge_parts.counting() as counter:
        with_registry = LocalRegistry.open(Path(registry))
        with_registry.fetch(reference, out, kind="merged")
    os.sync()
    measure.report(**counter.parts(measure.cpu))
    with_registry.close()


def stream_parts(registry: str, reference: str, file: str) -> None:
    """A merged file sent through a socket to a process that drains it, in CPU seconds by part; the second time."""
    imports = _import_ours()
    from benchmarks import merge_parts
    from registry.services.local import LocalRegistry

    with_registry = LocalRegistry.open(Path(registry))
    with with_registry.artifact(reference, kind="merged") as artifact:

        def stream() -> tuple[Measure, dict[str, float]]:
            with merge_parts.counting() as counter, merge_parts.draining() as connection:
                measure = Measure(imports)
                send = counter.of("send", connection.sendall)
                for chunk in artifact.file(file).chunks():
                    send(chunk)
                return measure, counter.parts(measure.cpu)

        stream()
        measure, parts = stream()
        measure.report(**parts)
    with_registry.close()


def floor(base: str, out: str, *adapters: str) -> None:
    """What any merge of these adapters has to do, until the bytes are on the medium."""
    start = time.perf_counter()
    from benchmarks import merge_floor

    measure = Measure(time.perf_counter() - start)
    parts = merge_floor.merge(Path(base), Path(out), [Path(one) for one in adapters])
    os.sync()
    measure.report(**parts)


def publish(registry: str, folder: str, path: str) -> None:
    """Publish one adapter."""
    imports = _import_ours()
    from registry.services.local import LocalRegistry

    measure = Measure(imports)
    with_registry = LocalRegistry.open(Path(registry))
    answer = with_registry.publish(folder, path)
    measure.report()
    with_registry.close()
    if not answer.created:
        raise SystemExit("The adapter was there already, so nothing was measured.")


def read_and_hash(folder: str) -> None:
    """The peer of publish: read an adapter's files and take their sha256."""
    import hashlib

    measure = Measure(0.0)
    for file in sorted(Path(folder).iterdir()):
        with file.open("rb") as stream:
            hashlib.file_digest(stream, "sha256")
    measure.report()


def peft(base: str, out: str, *adapters: str) -> None:
    """The peer of fetch: load the model and all adapters without needless copies, merge at once, save, and sync."""
    start = time.perf_counter()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    measure = Measure(time.perf_counter() - start)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    names = [f"link{number}" for number in range(len(adapters))]
    peft_model = PeftModel.from_pretrained(model, adapters[0], adapter_name=names[0], low_cpu_mem_usage=True)
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        peft_model.load_adapter(adapter, adapter_name=name, low_cpu_mem_usage=True)
    peft_model.merge_and_unload(adapter_names=names).save_pretrained(out)
    os.sync()
    measure.report()


WORK: dict[str, Callable[..., None]] = {
    "fetch": fetch,
    "fetch_parts": fetch_parts,
    "stream_parts": stream_parts,
    "floor": floor,
    "publish": publish,
    "read_and_hash": read_and_hash,
    "peft": peft,
}

if __name__ == "__main__":
    WORK[sys.argv[1]](*sys.argv[2:])
