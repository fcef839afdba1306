"""What starting costs: the modules that a command may not load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import io, json, sys
sys.stdout, real = io.StringIO(), sys.stdout
from registry.cli.program import run
code = run(json.loads(sys.argv[1]))
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([code, loaded]), file=real)
"""


def loaded_by(*args: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(args)], capture_output=True, check=True, text=True, timeout=120
    )
    code, loaded = json.loads(done.stdout)
    assert code == 0, done.stderr
    return set(loaded)


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["publish", "--help"], ["base"]])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    heavy = {"torch", "numpy", "safetensors", "transformers", "alembic", "sqlalchemy", "rich", "blake3"}
    # pydantic is what newer versions of typer read options with; `registry.schemas` is not needed for help.
    assert not heavy & loaded_by(*args)


def test_the_package_loads_nothing() -> None:
    script = "import sys, registry; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=120)
    assert not {"torch", "sqlalchemy", "pydantic", "typer"} & set(done.stdout.split())
