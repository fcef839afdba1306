"""Runs measured work under the same conditions for both sides, and says what came out.

Sides alternate, so that a busy minute hits both. Before each timed run old output is removed and everything
is synced; the files read were read before, so both sides find them in the page cache.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT

PEER_PYTHON = Path(sys.prefix) / "peers" / "bin" / "python"
RESULTS = ROOT / "benchmarks" / "results"
Sample = dict[str, float]


@dataclass(frozen=True)
class Conditions:
    """How a part is measured.

    Args:
        quick: small models and one run, which only shows that the benchmark works.
        cache: a folder for models and adapters that several parts use; they stay there.
        python: the interpreter that has the peers of `benchmarks/peers.txt`; None leaves these peers out.
        most: alternating runs, in place of each part's usual number.
    """

    quick: bool
    cache: Path
    python: str | None = None
    most: int | None = None

    def runs(self, usual: int) -> int:
        """How many alternating runs are made."""
        return 1 if self.quick else self.most or usual


def peer_python(said: str | None) -> str | None:
    """The interpreter that has the peers, None to leave them out."""
    if said == "none":
        return None
    found = Path(said) if said else PEER_PYTHON
    if not found.exists():
        raise SystemExit(f"There are no peers at {found}: `make bench` installs them; --peer-python none does without.")
    return str(found)


def run_child(*words: str) -> Sample:
    """Run ``benchmarks.child`` with these words; its JSON answer and the whole process's seconds."""
    start, before = time.perf_counter(), spent()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", *words], cwd=ROOT, check=False, capture_output=True, text=True
    )
    process = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"benchmarks.child {' '.join(words)} failed:\n{done.stderr}")
    return {"cpu": spent() - before, **json.loads(done.stdout.splitlines()[-1]), "process": process}


def spent() -> float:
    """CPU seconds, user and system, of this process's children that have ended, so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def copy_and_sync(source: Path, out: Path) -> Sample:
    """The floor of any merge to disk: the same files copied, until they are on the medium."""
    start, before = time.perf_counter(), spent()
    subprocess.run(["cp", "-r", "--reflink=never", str(source), str(out)], check=True)
    os.sync()
    return {"seconds": time.perf_counter() - start, "cpu": spent() - before}


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
