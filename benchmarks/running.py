"""Runs measured work under the same conditions for both sides, and says what came out.

Sides alternate, so that a busy minute hits both. Before each timed run old output is removed and everything
is synced; the files read were read before, so both sides find them in the page cache.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Sample = dict[str, float]


def run_child(*words: str) -> Sample:
    """Run ``benchmarks.child`` with these words; its JSON answer and the whole process's seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", *words], cwd=ROOT, check=False, capture_output=True, text=True
    )
    process = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"benchmarks.child {' '.join(words)} failed:\n{done.stderr}")
    return {**json.loads(done.stdout.splitlines()[-1]), "process": process}


def copy_and_sync(source: Path, out: Path) -> Sample:
    """The floor of any merge to disk: the same files copied, until they are on the medium."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["cp", "-r", "--reflink=never", str(source), str(out)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.sync()
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "cpu": cpu}


def warm(*folders: Path) -> None:
    """Read every file once, so that each side finds it in the page cache."""
    for folder in folders:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            with file.open("rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass


def alternate(
    sides: Mapping[str, Callable[[Path], Sample]], *, runs: int, scratch: Path, few: Mapping[str, int] | None = None
) -> dict[str, list[Sample]]:
    """Run the sides in turn, each into an empty output path; ``few`` limits the runs of slow sides."""
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for turn in range(runs):
        for name, side in sides.items():
            if few and turn >= few.get(name, runs):
                continue
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            os.sync()
            samples[name].append(side(out))
            shutil.rmtree(out, ignore_errors=True)
            sys.stderr.write(f"  run {turn + 1}, {name}: {samples[name][-1]['seconds']:.2f} s\n")
    return samples


def median(samples: Sequence[Sample], field: str = "seconds") -> float:
    """The median of one field."""
    return statistics.median(sample[field] for sample in samples)


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured, its value, and the limit that the project set itself."""

    name: str
    value: float
    unit: str
    limit: str = ""


def table(title: str, figures: Sequence[Figure]) -> str:
    """The figures as text in aligned columns."""
    width = max(len(figure.name) for figure in figures)
    lines = [f"{f.name:<{width}}  {f.value:>10.3g} {f.unit:<3} {f.limit}".rstrip() for f in figures]
    return "\n".join([title, "-" * len(title), *lines])


def machine() -> dict[str, object]:
    """What the figures depend on."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    packages = ("torch", "safetensors", "transformers", "peft", "sqlalchemy")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "packages": {name: version(name) for name in packages},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def save(name: str, figures: Sequence[Figure], samples: Mapping[str, object]) -> Path:
    """Write figures, all samples and the machine as JSON; the file's path."""
    now = datetime.now(UTC)
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{name}-{now:%Y%m%dT%H%M%SZ}.json"
    document = {
        "benchmark": name,
        "at": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "figures": [asdict(figure) for figure in figures],
        "samples": samples,
    }
    file.write_text(json.dumps(document, indent=2) + "\n")
    return file
