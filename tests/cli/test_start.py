"""What starting costs: the modules that a command may not load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.kit.servers_service import clean_environ
from tests.kit.servers_shared import SharedService

SCRIPT = """
import io, json, sys
sys.stdout, real = io.StringIO(), sys.stdout
from registry.cli.program import run
codes = [run(args) for args in json.loads(sys.argv[1])]
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([codes, loaded]), file=real)
"""


def loaded_by(*commands: list[str]) -> set[str]:
    """What one process has loaded when it has run all these commands."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)], capture_output=True, check=True, text=True, timeout=120
    )
    codes, loaded = json.loads(done.stdout)
    assert codes == [0] * len(commands), done.stderr
    return set(loaded)


def test_help_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "safetensors", "transformers", "alembic", "sqlalchemy", "rich", "blake3"}
    # pydantic is what newer versions of typer read options with; `registry.schemas` is not needed for help.
    assert not heavy & loaded_by(["--help"], ["--version"], ["publish", "--help"], ["base"])


def test_the_package_loads_nothing() -> None:
    script = "import sys, registry; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=120)
    assert not {"torch", "sqlalchemy", "pydantic", "typer"} & set(done.stdout.split())


CLIENT_ONLY = """
import sys
from importlib.machinery import PathFinder

HEAVY = {"torch", "numpy", "safetensors", "transformers", "sqlalchemy", "alembic", "boto3", "botocore", "fastapi",
         "starlette", "uvicorn", "psycopg", "prometheus_client"}
found = PathFinder.find_spec

def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in HEAVY else found(name, path, target)

PathFinder.find_spec = classmethod(find_spec)
from registry.cli.program import run
sys.exit(run(sys.argv[1:]))
"""


def test_a_client_needs_no_torch_and_no_database(shared_service: SharedService, tmp_path: Path) -> None:
    def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environ = clean_environ({"XDG_CONFIG_HOME": str(tmp_path), **settings})
        command = [sys.executable, "-c", CLIENT_ONLY, *words]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)

    assert run("token", "create", "--help").returncode == 0
    there = {"REGISTRY_URL": shared_service.url, "REGISTRY_TOKEN": shared_service.token}
    for words in (["whoami"], ["tree"], ["search"], ["events"], ["token", "list"]):
        asked = run(*words, **there)
        assert asked.returncode == 0, asked.stderr
    # What needs them here says so in one sentence.
    for words in (["tree", "--url", str(tmp_path)], ["serve", "--url", str(tmp_path)]):
        refused = run(*words, **there)
        assert refused.returncode == 1
        assert "is needed for this and is not installed here" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
