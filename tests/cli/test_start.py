"""What starting costs: the modules that a command may not load."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_adapter
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


HEAVY = frozenset(
    "torch numpy safetensors transformers regex yaml alembic rich sqlalchemy boto3 fastapi httpx".split()  # noqa: SIM905
)
BROWSED = {"sqlalchemy"}
BROWSING = (
    ["tree"],
    ["base", "list"],
    ["log", "net/one"],
    ["show", "net/one"],
    ["resolve", "net/one"],
    ["diff", "net/one@1", "net/one/two"],
    ["search", "one"],
    ["events"],
    ["whoami"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry with a base model and two adapters; what was fetched of them lies in the cache beside it."""
    place = tmp_path_factory.mktemp("started")
    base = plain_base(place / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    registry = LocalRegistry.open(place / "registry", create=True, cache_folder=place / "cache" / "fetched")
    registry.add_base("net", base.folder)
    registry.publish(write_adapter(place / "one", base, ["a"], r=2), "net/one")
    registry.publish(write_adapter(place / "two", base, ["b"], r=2), "net/one/two", parent="net/one@1")
    registry.close()
    environ = {"REGISTRY_URL": str(place / "registry"), "REGISTRY_CACHE_DIR": str(place / "cache" / "fetched")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        yield place


def test_browsing_a_folder_loads_the_database_and_nothing_else(folder: Path) -> None:
    assert loaded_by(*BROWSING) & HEAVY == BROWSED


def test_stored_bytes_are_fetched_without_torch(folder: Path) -> None:
    out = str(folder / "published")
    assert loaded_by(["fetch", "net/one", "--as", "published", "-o", out]) & HEAVY == BROWSED


@pytest.mark.long_on("merged")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_what_was_fetched_before_is_there_without_torch(folder: Path, kind: str) -> None:
    assert "torch" in loaded_by(["fetch", "net/one/two", "--as", kind])
    assert loaded_by(["fetch", "net/one/two", "--as", kind]) & HEAVY == BROWSED


@pytest.mark.slow
def test_a_service_is_used_without_torch_and_without_a_database(shared_service: SharedService, tmp_path: Path) -> None:
    url = ["--url", shared_service.url]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        patch.setenv("REGISTRY_URL", shared_service.url)
        patch.setenv("REGISTRY_TOKEN", shared_service.token)
        for command in (["tree"], ["whoami"], ["search"], ["events"], ["token", "list"]):
            assert loaded_by([*url, *command]) & HEAVY - {"rich"} == {"httpx"}  # which has a command line of its own


def test_a_command_imports_no_other_command() -> None:
    script = """if True:
        import io, sys
        from registry.cli.program import run
        sys.stdout, real = io.StringIO(), sys.stdout
        code = run(["tree", "--help"])
        print(code, *sorted(name for name in sys.modules if name.startswith("registry.cli.commands.")), file=real)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=120)
    assert done.stdout.split() == ["0", "registry.cli.commands.browse"]


def test_browsing_loads_only_what_it_reads(folder: Path) -> None:
    script = """if True:
        import io, sys
        from registry.cli.program import run
        sys.stdout, real = io.StringIO(), sys.stdout
        print(run(["tree"]), *sorted(sys.modules), file=real)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=120)
    code, *loaded = done.stdout.split()
    # Another database's dialect; records and changes that no tree shows; publishing; tensors: a tenth of the time.
    others = (
        "sqlalchemy.dialects.postgresql", "registry.catalogue.database.team_tables", "registry.catalogue.changes",
        "registry.catalogue.tree.search", "registry.transfer.publish_tree", "registry.transfer.publish_request",
        "registry.folders.hub", "registry.tensors",
    )  # fmt: skip
    assert code == "0"
    assert [name for name in loaded if name.startswith(others)] == []


@pytest.mark.parametrize(("said", "expected"), [(None, "__all__"), ("", "")])
def test_a_command_ends_without_looking_for_garbage_and_loads_no_plugins(said: str | None, expected: str) -> None:
    script = """if True:
        import atexit, gc, os, sys
        atexit.register(lambda: print(gc.get_freeze_count() > 10_000, repr(os.environ["PYDANTIC_DISABLE_PLUGINS"])))
        sys.argv = ["registry", "--version"]
        from registry.cli.main import main
        main()
    """
    environ = clean_environ({} if said is None else {"PYDANTIC_DISABLE_PLUGINS": said})
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=120, env=environ
    )
    assert done.stdout.splitlines()[-1] == f"True {expected!r}"


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


@pytest.mark.slow
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
