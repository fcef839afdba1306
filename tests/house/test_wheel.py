"""The wheel: what it carries, and that the main job works where nothing but the wheel is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from benchmarks import synthetic

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command away from the checkout, with nothing of this process's Python settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REGISTRY_"))}
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**clean, **environment},
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_carries_the_migrations_inside_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"registry/_alembic/env.py", "registry/_alembic/script.py.mako", "registry/py.typed"} <= names
    shipped = {Path(name).name for name in names if name.startswith("registry/_migrations/") and name.endswith(".py")}
    assert shipped == {path.name for path in (ROOT / "migrations").glob("*.py")}
    assert shipped


def test_the_wheel_puts_nothing_beside_the_package(wheel: Path) -> None:
    """A top-level ``alembic`` would land in the library's own folder, ``tests`` in everyone's way."""
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    (metadata,) = top - {"registry"}
    assert metadata.startswith("adapter_registry-")
    assert metadata.endswith(".dist-info")


def test_the_wheel_carries_every_module_and_no_litter(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("registry/")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "registry").rglob("*.py")}
    assert modules <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".safetensors"))]


def environment(folder: Path) -> tuple[Path, Path]:
    """An empty virtual environment: its Python and its folder of packages."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    return python, packages


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


@pytest.mark.slow
def test_the_main_job_works_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Dependencies are those of this environment, seen through a path file; the package is the wheel's alone.

    A path file isn't followed to other path files, so that this environment's editable install stays out.
    """
    python, packages = environment(tmp_path / "venv")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    main_job(python, packages, tmp_path)


@pytest.mark.slow
def test_the_main_job_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The wheel's own list of dependencies is enough: pip installs all of them, as a user's would."""
    python, packages = environment(tmp_path / "venv")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--progress-bar", "off", wheel, cwd=tmp_path)
    main_job(python, packages, tmp_path)
