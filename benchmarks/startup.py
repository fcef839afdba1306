"""How long a person waits for ``registry --help`` and ``registry tree``, and whether torch was imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import running, synthetic
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample

FLOOR = "python -c pass"

PROBE = """
import sys
from registry.cli.main import main
sys.argv = ["registry", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    if end.code:
        raise
finally:
    heavy = [name for name in ("torch", "transformers", "alembic", "boto3", "fastapi") if name in sys.modules]
    print("HEAVY", *heavy, file=sys.stderr)
"""


def _registry(folder: Path) -> Path:
    """A registry with a base model and two adapters, so that the tree has something to draw."""
    from registry.services.local import LocalRegistry

    registry = LocalRegistry.open(folder / "registry", create=True)
    registry.add_base("llama", synthetic.base_model(folder, synthetic.TINY))
    for seed, path in enumerate(("llama/a", "llama/a/b"), start=1):
        registry.publish(synthetic.adapter(folder, synthetic.TINY, seed=seed), path)
    registry.close()
    return folder / "registry"


def _command() -> list[str]:
    return [str(Path(sys.executable).with_name("registry"))]


def _time(command: list[str], environment: dict[str, str]) -> Sample:
    start, before = time.perf_counter(), running.spent()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return {"seconds": time.perf_counter() - start, "cpu": running.spent() - before}


def heavy_imports(words: list[str], environment: dict[str, str]) -> list[str]:
    """Which of the packages that make a start slow the command imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words], check=True, capture_output=True, text=True, env=environment
    )
    line = next(line for line in done.stderr.splitlines() if line.startswith("HEAVY"))
    return line.split()[1:]


def rows(run: Conditions) -> Iterator[Row]:
    """Commands of a person at a terminal beside the start of Python itself."""
    commands = {"registry --help": ["--help"], "registry tree": ["tree"]}
    samples: dict[str, list[Sample]] = {name: [] for name in (*commands, FLOOR)}
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "REGISTRY_URL": str(_registry(Path(scratch)))}
        for _ in range(run.runs(9)):
            for name, words in commands.items():
                samples[name].append(_time([*_command(), *words], environment))
            samples[FLOOR].append(_time([sys.executable, "-c", "pass"], environment))
        heavy = {name: heavy_imports(words, environment) for name, words in commands.items()}
    for name in commands:
        floor = Peer(FLOOR, Figure.of(samples[FLOOR]))
        yield Row(name, Figure.of(samples[name]), "s", floor, Goal("at most", 0.5, of="figure"))
        yield Row(
            f"{name}: heavy packages imported", Figure(len(heavy[name])), "", goal=Goal("at most", 0, of="figure")
        )
