"""How long a person waits for a command: seconds, CPU seconds, modules, and which heavy packages it imports.

The peer is what such a command can't do without: Typer, pydantic and sqlite3, imported and nothing else. Sides
alternate, and what Python compiles at a first import is compiled before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import running, synthetic
from benchmarks.rows import Figure, Peer, Row
from benchmarks.running import Conditions, Sample

HEAVY: Final = ("torch", "transformers", "sqlalchemy.orm", "alembic", "boto3", "fastapi", "httpx")
COMMAND: Final = """
import sys
from registry.cli.main import main
sys.argv = ["registry", *sys.argv[1:]]
"""
PROBE: Final = f"""{COMMAND}
try:
    main()
except SystemExit as end:
    if end.code:
        raise
finally:
    print("HEAVY", len(sys.modules), *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
FLOOR: Final = "floor: import typer, pydantic, sqlite3"


@dataclass(frozen=True)
class Side:
    """One command line, and what is removed before each run."""

    words: Sequence[str]
    removed: Path | None = None


def _sides(folder: Path, base: Path) -> dict[str, Side]:
    """What is measured, on a registry with a base model and two adapters."""
    out = folder / "out"
    return {
        "registry --version": Side(["--version"]),
        "registry --help": Side(["--help"]),
        "registry tree": Side(["tree"]),
        "registry show": Side(["show", "llama/a"]),
        "registry log": Side(["log", "llama/a"]),
        "registry fetch --as published": Side(["fetch", "llama/a", "--as", "published", "-o", str(out)], out),
        "registry fetch, in the cache": Side(["fetch", "llama/a/b"]),
        "registry fetch, computed": Side(["fetch", "llama/a/b", "-o", str(out)], out),
        "registry base add": Side(["--url", str(out), "base", "add", "llama", str(base)], out),
    }


def _registry(folder: Path) -> Path:
    """Fill the registry; the folder of its base model."""
    from registry.services.local import LocalRegistry

    base = synthetic.base_model(folder, synthetic.TINY)
    with closing(LocalRegistry.open(folder / "registry", create=True)) as registry:
        registry.add_base("llama", base)
        for seed, path in enumerate(("llama/a", "llama/a/b"), start=1):
            registry.publish(synthetic.adapter(folder, synthetic.TINY, seed=seed), path)
    return base


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> Sample:
    """Seconds on the clock and of CPU, of a process and its children."""
    before, start = running.spent(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return {"seconds": time.perf_counter() - start, "cpu": running.spent() - before}


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-c", f"{COMMAND}main()", *words]


def heavy_imports(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, list[str]]:
    """How many modules the command imported, and which of the packages that make a start slow."""
    command = [sys.executable, "-c", PROBE, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    line = next(line for line in done.stderr.splitlines() if line.startswith("HEAVY"))
    return int(line.split()[1]), line.split()[2:]


def _clear(side: Side) -> None:
    if side.removed is not None:
        shutil.rmtree(side.removed, ignore_errors=True)


def rows(run: Conditions) -> Iterator[Row]:
    """All commands beside the floor."""
    samples: dict[str, list[Sample]] = {FLOOR: []}
    modules: dict[str, tuple[int, list[str]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sides = _sides(folder, _registry(folder))
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "REGISTRY_URL": str(folder / "registry"),
            "REGISTRY_CACHE_DIR": str(folder / "cache"),
        }
        for name, side in sides.items():
            _clear(side)
            heavy_imports(side.words, environment)
            _clear(side)
            modules[name] = heavy_imports(side.words, environment)
        for _ in range(run.runs(7)):
            floor = [sys.executable, "-c", "import typer, pydantic, sqlite3"]
            samples[FLOOR].append(_timed(floor, environment))
            for name, side in sides.items():
                _clear(side)
                samples.setdefault(name, []).append(_timed(_command(side.words), environment))
    peer = Peer(FLOOR, Figure.of(samples[FLOOR]))
    for name, (count, heavy) in modules.items():
        yield Row(name, Figure.of(samples[name]), "s", peer)
        yield Row(f"  modules that it imports; of the heavy ones {', '.join(heavy) or 'none'}", Figure(count), "")
