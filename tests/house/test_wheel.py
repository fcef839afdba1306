"""The wheel: what it carries, and that the demo and the main job work where nothing but the wheel is installed."""

from __future__ import annotations

import json
import re
import shlex
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Final

import pytest
from alembic.script import ScriptDirectory

from benchmarks import synthetic
from registry import __version__
from registry.catalogue.database import migrations
from registry.catalogue.database.migrations import HISTORY
from registry.demo.tasks import BASE, LINKS
from registry.schemas.protocol import PROTOCOL, SPOKEN
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT
from tests.house.environments import environment, run
from tests.root import ROOT


def test_the_wheel_carries_the_migrations_inside_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"registry/_alembic/env.py", "registry/_alembic/script.py.mako", "registry/py.typed"} <= names
    shipped = {Path(name).name for name in names if name.startswith("registry/_migrations/") and name.endswith(".py")}
    assert shipped == {path.name for path in (ROOT / "migrations").glob("*.py")}
    assert shipped


def test_the_wheel_puts_nothing_beside_the_package(wheel: Path) -> None:
    """A top-level ``alembic`` would land in the library's own folder, ``tests`` in everyone's way."""
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert top == {"registry", "adapter_registry", f"adapter_registry-{__version__}.dist-info"}


def test_the_wheel_carries_every_module_and_no_litter(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    packages = (ROOT / "registry", ROOT / "adapter_registry")
    modules = {str(path.relative_to(ROOT)) for package in packages for path in package.rglob("*.py*")}
    modules = {name for name in modules if "__pycache__" not in name}
    assert modules <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".safetensors"))]


def test_the_sdist_carries_what_builds_and_explains_it(distribution: tuple[Path, Path]) -> None:
    with tarfile.open(distribution[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "docs/concepts.md"} <= names
    assert not [name for name in names if name.partition("/")[0] in {".venv", "build", "dist", "demo-registry", ".git"}]


def test_the_newest_version_of_the_changelog_is_this_one() -> None:
    page = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d\d-\d\d))?$", page, flags=re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == __version__
    assert all(day for _, day in versions[1:])


RELEASED: Final = {"0.2.0": "0004", "0.3.0": "0019", "0.4.0": "0020", "0.5.0": "0021", "0.6.0": "0022"}
"""The schema of each release, oldest first. A row is added by a release, and never changed: a program tells by its
version what it works with."""


def test_a_newer_schema_has_a_version_of_its_own() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = re.findall(
        r"^\| (\d+\.\d+\.\d+) \| `(\d{4})` \| (\d+) \| (\d+) \| ([\d, ]+) \| (\d+) \|$", operations, flags=re.MULTILINE
    )
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert RELEASED.get(__version__) == HISTORY[-1], (
        f"{__version__} has the schema {RELEASED.get(__version__)}, and this program {HISTORY[-1]}: raise the version "
        "(registry/version.py, the image in deploy, the changelog), and give it a row here and in docs/operations.md."
    )
    assert {version: schema for version, schema, *_ in table} == RELEASED
    assert list(reversed(re.findall(r"^## \[(\d[^\]]+)\]", changelog, flags=re.MULTILINE))) == list(RELEASED)
    assert len(set(RELEASED.values())) == len(RELEASED)
    *_, artifacts, protocol, used, answered = table[-1]
    assert (int(artifacts), int(protocol), int(answered)) == (ARTIFACT_FORMAT, PROTOCOL, PROTOCOL)
    assert set(used.split(", ")) == SPOKEN
    scripts = ScriptDirectory.from_config(migrations.configuration()).walk_revisions()
    works = {one.revision: one.module.OLDEST for one in scripts if one.revision != "0001"}
    assert max(schema for schema, oldest in works.items() if oldest <= "0004") == "0014", "what the page says of 0.2.0"


def main_job(python: Path, packages: Path, folder: Path) -> None:
    """Base, two adapters, tree, and merged weights that transformers' format readers accept, by the command."""
    from safetensors.torch import load_file

    command = python.with_name("registry")
    where = {"REGISTRY_URL": str(folder / "registry"), "XDG_CACHE_HOME": str(folder / "cache")}
    imported = run(python, "-c", "import registry; print(registry.__file__)", cwd=folder).strip()
    assert Path(imported) == packages / "registry" / "__init__.py"

    base = synthetic.base_model(folder / "made", synthetic.TINY)
    run(command, "base", "add", "llama", base, cwd=folder, **where)
    for seed, path in enumerate(("llama/domain", "llama/domain/task"), start=1):
        adapter = synthetic.adapter(folder / "made", synthetic.TINY, seed=seed, rank=4)
        printed = run(command, "publish", adapter, path, "--tag", "prod", cwd=folder, **where)
        assert printed.splitlines()[0].strip() == f"{path}@1"
    tree = json.loads(run(command, "tree", "--json", cwd=folder, **where))
    (root,) = tree["roots"]
    assert [root["path"], root["children"][0]["path"]] == ["llama", "llama/domain"]
    assert root["children"][0]["children"][0]["revision"]["reference"] == "llama/domain/task@1"

    run(command, "fetch", "llama/domain/task@prod", "--as", "merged", "-o", folder / "out", cwd=folder, **where)
    index = json.loads((folder / "out" / "model.safetensors.index.json").read_text())
    for shard in set(index["weight_map"].values()):
        before, after = load_file(base / shard), load_file(folder / "out" / shard)
        assert before.keys() == after.keys()
        changed = {name for name in before if not before[name].equal(after[name])}
        assert changed == {name for name in before if name.endswith("_proj.weight")}
    run(command, "verify", folder / "out", cwd=folder, **where)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An environment with the wheel alone: its Python and its folder of packages. Nothing is downloaded.

    Dependencies are those of this environment, seen through a path file. A path file isn't followed to other path
    files, so that this environment's editable install stays out.
    """
    folder = tmp_path_factory.mktemp("installed")
    python, packages = environment(folder / "venv")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, packages


@pytest.mark.long
@pytest.mark.slow
def test_the_first_steps_of_the_demo_work_from_the_wheel(installed: tuple[Path, Path], tmp_path: Path) -> None:
    """With a tiny model and an adapter that is there, so that nothing has to be trained."""
    python, packages = installed
    command, other = python.with_name("registry"), python.with_name("adapter-registry")
    where = {"REGISTRY_URL": str(tmp_path / "demo-registry"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for name in ("registry", "adapter_registry"):
        imported = run(python, "-c", f"import {name}; print({name}.__file__)", cwd=tmp_path).strip()
        assert Path(imported) == packages / "registry" / "__init__.py"
    first = LINKS[0]
    base = synthetic.base_model(tmp_path / "made", synthetic.TINY)
    adapter = synthetic.adapter(tmp_path / "made", synthetic.TINY, seed=1, rank=4)
    run(command, "base", "add", BASE, base, cwd=tmp_path, **where)
    published = run(command, "publish", adapter, first.path, "-m", first.message, cwd=tmp_path, **where)
    assert published.splitlines()[0].strip() == f"{first.path}@1"
    told = json.loads(run(other, "tree", "--json", cwd=tmp_path, **where))
    assert [root["children"][0]["path"] for root in told["roots"]] == [first.path]


@pytest.mark.slow
def test_the_commands_of_the_wheel_are_those_of_the_project(installed: tuple[Path, Path], tmp_path: Path) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for name in scripts:
        assert run(installed[0].with_name(name), "--version", cwd=tmp_path) == f"adapter-registry {__version__}\n"


SHORT_DEMO = """
import json
from registry.cli.commands.demo import ScreenReport
from registry.bars import RichProgress
from registry.cli.session import session
from registry.demo.main import run
from registry.demo.training import Recipe

with session("demo-registry", True, create=True) as work, RichProgress(counts_bytes=False) as steps:
    outcome = run(work.registry, ScreenReport(work, steps), recipe=Recipe(steps=2, sentences=2))
references = [revision.reference for revision in outcome.revisions]
print(json.dumps([references, outcome.check.lora.weights, outcome.check.merged.weights, outcome.commands]))
"""


@pytest.mark.long
@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(installed: tuple[Path, Path], tmp_path: Path) -> None:
    """On real weights, with the wheel's own texts and next to no training; and the commands that it gives to try."""
    told = run(installed[0], "-c", SHORT_DEMO, cwd=tmp_path)
    references, lora, merged, commands = json.loads(told.splitlines()[-1])
    assert references == [f"{link.path}@1" for link in LINKS]
    assert max(lora, merged) < 1e-5
    for command in commands:
        run(*shlex.split(command), cwd=tmp_path)
    assert (tmp_path / f"{LINKS[-1].task}-merged" / "model.safetensors").is_file()


@pytest.mark.long
def test_the_main_job_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The wheel's own list of dependencies is enough: pip installs all of them, as a user's would."""
    python, packages = environment(tmp_path / "venv")
    options = ("--progress-bar", "off", "--no-compile")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=tmp_path)
    main_job(python, packages, tmp_path)
