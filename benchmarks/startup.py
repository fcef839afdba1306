"""How long a person waits for ``registry --help`` and ``registry tree``, and whether torch was imported for it.

python -m benchmarks.startup [--runs N]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import running, synthetic
from benchmarks.running import Figure, Sample

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


def _time(words: list[str], environment: dict[str, str]) -> Sample:
    start = time.perf_counter()
    subprocess.run([*_command(), *words], check=True, capture_output=True, env=environment)
    return {"seconds": time.perf_counter() - start}


def heavy_imports(words: list[str], environment: dict[str, str]) -> list[str]:
    """Which of the packages that make a start slow the command imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words], check=True, capture_output=True, text=True, env=environment
    )
    line = next(line for line in done.stderr.splitlines() if line.startswith("HEAVY"))
    return line.split()[1:]


def main(arguments: list[str] | None = None) -> Path:
    """Measure both commands and print the table; the JSON file."""
    parser = argparse.ArgumentParser(prog="benchmarks.startup", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args(arguments)
    commands = {"registry --help": ["--help"], "registry tree": ["tree"], "python -c pass": []}
    samples: dict[str, list[Sample]] = {name: [] for name in commands}
    rows: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "REGISTRY_URL": str(_registry(Path(scratch)))}
        heavy = {name: heavy_imports(words, environment) for name, words in commands.items() if words}
        for _ in range(options.runs):
            for name, words in commands.items():
                samples[name].append(_time(words, environment) if words else _floor(environment))
    for name in commands:
        limit = "under 0.5" if name.startswith("registry") else ""
        rows.append(Figure(name, running.median(samples[name]), "s", limit))
    print(running.table(f"Start-up, medians of {options.runs} alternating runs", rows))
    for name, packages in heavy.items():
        print(f"{name} imports of the heavy packages: {', '.join(packages) or 'none'}")
    file = running.save("startup", rows, {**samples, "heavy": heavy})
    print(f"\nSamples: {file.name} in benchmarks/results")
    return file


def _floor(environment: dict[str, str]) -> Sample:
    """What starting Python itself takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True, env=environment)
    return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main()
