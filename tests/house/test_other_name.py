"""`adapter_registry` is the package `registry`, also where a project has a `registry.py` of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from registry import __version__, connect
from tests.conftest import StartService
from tests.kit import plain_base, write_adapter
from tests.root import ROOT

OWN_MODULE = "MODELS = {'resnet': 50}\n"

ONE = """
import {first}, {second}
import {first}.errors, {second}.errors
from adapter_registry.cli import main
from adapter_registry.schemas import Tree
import registry.cli.main
import registry.schemas.tree

assert registry is adapter_registry
assert registry.errors is adapter_registry.errors
assert registry.errors.__name__ == registry.errors.__spec__.name == "registry.errors"
assert main is registry.cli.main
assert Tree is registry.schemas.tree.Tree
try:
    import adapter_registry.absent
except ModuleNotFoundError as error:
    assert error.name == "adapter_registry.absent", error.name
else:
    raise AssertionError("found what is not there")
"""

TWO = """
import {first}, {second}
import adapter_registry.errors, registry, sys

assert registry.MODELS == {{"resnet": 50}}, "the project's own module"
assert adapter_registry.connect.__module__ == "adapter_registry"
assert issubclass(adapter_registry.errors.NotFoundError, adapter_registry.errors.RegistryError)
assert [name for name in sys.modules if name.partition(".")[0] == "registry"] == ["registry"]
"""

JOB = """
import registry, adapter_registry
import sys
from adapter_registry.errors import NotFoundError

base, adapter, place = sys.argv[1:]
team = adapter_registry.connect(place)
team.add_base("net", base)
team.publish(adapter, "net/one", tags=["prod"])
team.fetch("net/one@prod", "merged", kind="merged")
assert team.verify("merged").equal
try:
    team.show("net/absent")
except NotFoundError as error:
    assert error.code == "not_found"
else:
    raise AssertionError("found what is not there")
assert registry.MODELS == {"resnet": 50}, "the project's own module"
assert [name for name in sys.modules if name.partition(".")[0] == "registry"] == ["registry"]
"""


def run(*words: str | Path, cwd: Path, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    command = [sys.executable, *map(str, words)]
    environ |= {"PYTHONPATH": path, "XDG_CONFIG_HOME": str(cwd), "XDG_CACHE_HOME": str(cwd / "cache")}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=240)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with somebody's `registry.py`."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "registry.py").write_text(OWN_MODULE)
    return folder


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A registry with one adapter."""
    base = plain_base(tmp_path / "filled-base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    registry = connect(tmp_path / "filled")
    registry.add_base("net", base.folder)
    registry.publish(write_adapter(tmp_path / "filled-one", base, ["a", "b"], r=2), "net/one")
    registry.close()
    return tmp_path / "filled"


@pytest.mark.parametrize(("first", "second"), [("registry", "adapter_registry"), ("adapter_registry", "registry")])
def test_both_names_are_one_package(first: str, second: str, tmp_path: Path) -> None:
    done = run("-c", ONE.format(first=first, second=second), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("first", "second"), [("registry", "adapter_registry"), ("adapter_registry", "registry")])
def test_the_registry_module_of_a_project_stays_what_it_is(first: str, second: str, project: Path) -> None:
    done = run("-c", TWO.format(first=first, second=second), cwd=project)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_main_job_works_beside_the_registry_module_of_a_project(project: Path, tmp_path: Path) -> None:
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    adapter = write_adapter(tmp_path / "one", base, ["a", "b"], r=2)
    (project / "train.py").write_text(JOB)
    done = run("train.py", base.folder, adapter, "./registry", cwd=project)  # a folder may have that name, too
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_command_works_in_the_folder_of_such_a_project(project: Path, filled: Path) -> None:
    done = run("-m", "adapter_registry", "show", "net/one", "--url", filled, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "net/one@1" in done.stdout
    failed = run("-m", "adapter_registry", "show", "net/absent", "--url", filled, cwd=project)
    assert failed.returncode == 3
    assert failed.stderr.startswith("registry: There is no adapter net/absent")


def test_both_commands_start_by_the_name_that_nothing_shadows(project: Path) -> None:
    """As the scripts of an installation do it, with the project on the path for whatever reason."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts["registry"] == scripts["adapter-registry"]
    module, _, name = scripts["registry"].partition(":")
    script = project / "script.py"
    script.write_text(f"import sys\nfrom {module} import {name}\nsys.exit({name}())\n")
    done = run(script, "--version", cwd=project, path=os.pathsep.join([str(project), str(ROOT)]))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"adapter-registry {__version__}\n"


@pytest.mark.long
def test_a_service_runs_in_such_a_project_and_logs(project: Path, filled: Path, start_service: StartService) -> None:
    serve = (sys.executable, "-m", "adapter_registry", "serve", "--host", "127.0.0.1", "--port", "0")
    path = os.pathsep.join([str(project), str(ROOT)])
    service = start_service({"PYTHONPATH": path, "REGISTRY_URL": str(filled)}, command=serve)
    with closing(connect(service.url)) as client:
        assert client.resolve("net/one").reference == "net/one@1"
    assert service.stop() == 0  # the line of a request is written after its answer is out
    assert any('"event"' in line and "/api/v1/" in line for line in service.log)


def test_both_names_run_as_a_module(tmp_path: Path) -> None:
    said = [run("-m", name, "--version", cwd=tmp_path) for name in ("registry", "adapter_registry")]
    assert [done.returncode for done in said] == [0, 0], [done.stderr for done in said]
    assert said[0].stdout == said[1].stdout


def test_the_name_alone_says_that_the_package_is_missing(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "adapter_registry", tmp_path / "adapter_registry")
    done = run("-c", "import adapter_registry", cwd=tmp_path, path=str(tmp_path))
    assert done.returncode == 1
    missing = tmp_path / "registry"
    assert f"ImportError: The rest of adapter-registry is not there, in {missing}: install it again." in done.stderr


USES = """
import {name}
from {name}.errors import NotFoundError
from {name}.schemas import Tree

def tree(url: str) -> Tree | str:
    try:
        return {name}.connect(url).tree()
    except NotFoundError as error:
        return error.code

reveal_type({name}.connect)
reveal_type({name}.__version__)
reveal_type(tree)
{name}.connect(1)
{name}.absent
"""


@pytest.mark.long
@pytest.mark.slow
def test_type_checkers_see_the_same_by_both_names(tmp_path: Path) -> None:
    said = []
    for name in ("registry", "adapter_registry"):
        (tmp_path / "uses.py").write_text(USES.format(name=name))
        done = run("-m", "mypy", "--strict", "--config-file=", "--cache-dir=cache", "uses.py", cwd=tmp_path)
        lines = [line for line in done.stdout.splitlines() if line.startswith("uses.py")]
        said.append([line.replace("adapter_registry", "registry") for line in lines])
    assert said[0] == said[1]
    kinds = [line.split(": ")[1] for line in said[0]]
    assert kinds.count("error") == 2, said[0]
