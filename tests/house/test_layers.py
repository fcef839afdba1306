"""Imports go one way, and the rule that says so notices when they don't."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from registry.operations.operation import Listing, Operation
from registry.operations.table import NOTICE, OPERATIONS
from registry.schemas.requests import NoRequest
from tests.root import ROOT


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", "pyproject.toml", "--no-cache"]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its rules, free to be spoilt."""
    shutil.copytree(ROOT / "registry", tmp_path / "registry", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(folder: Path, module: str, line: str) -> None:
    file = folder / "registry" / module
    file.parent.mkdir(exist_ok=True)
    file.write_text((file.read_text() if file.exists() else "") + f"\n{line}\n")


def test_the_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long_but(
    "import sqlalchemy",
    "The client imports neither services nor catalogue",
    "from registry.services import local-Imports go down only",
    "The internals of uvicorn and h11 stay in one module",
    "import registry.digest",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("tensors/arithmetic/dtypes.py", "import sqlalchemy", "The tensor core is pure"),
        ("tensors/arithmetic/dtypes.py", "import boto3", "The tensor core is pure"),
        ("tensors/arithmetic/dtypes.py", "from registry.storage import driver", "Imports go down only"),
        ("tensors/arithmetic/dtypes.py", "from registry.catalogue import __init__", "Imports go down only"),
        ("catalogue/__init__.py", "import torch", "The catalogue knows no tensors"),
        ("storage/driver.py", "import safetensors", "Storage knows bytes only"),
        ("storage/driver.py", "from registry.services import local", "Imports go down only"),
        (
            "client/errors.py",
            "from registry.services import local",
            "The client imports neither services nor catalogue",
        ),
        ("transfer/fetched_folder.py", "import torch", "The client needs no torch and no database"),
        ("quantised/reading.py", "import torch", "The client needs no torch and no database"),
        ("services/intake/intake.py", "from registry.services import local", "The services have floors"),
        ("catalogue/store/blobs.py", "from registry.catalogue.changes import tagging", "The catalogue has floors"),
        ("http/access.py", "import h11", "The internals of uvicorn and h11 stay in one module"),
        ("errors.py", "import registry.digest", "Imports go down only"),
        ("planted.py", "import registry.errors", "Imports go down only"),
    ],
)
def test_a_planted_import_is_caught(copy: Path, module: str, line: str, broken: str) -> None:
    plant(copy, module, line)
    done = lint_imports(copy)
    assert done.returncode != 0
    assert re.search(f"^{broken}.* BROKEN", done.stdout, re.MULTILINE), done.stdout + done.stderr


def test_an_indirect_import_is_caught(copy: Path) -> None:
    """The tensor core may not reach a database through a leaf either."""
    plant(copy, "errors.py", "import sqlalchemy")
    done = lint_imports(copy)
    assert done.returncode != 0
    assert "The tensor core is pure BROKEN" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("operation", [*OPERATIONS, NOTICE], ids=lambda operation: operation.name)
def test_the_function_that_a_row_names_takes_its_request_and_gives_its_answer(operation: Operation[Any, Any]) -> None:
    module, _, name = operation.does.rpartition(".")
    does = inspect.signature(getattr(importlib.import_module(f"registry.services.{module}"), name))
    places = [one for one in does.parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
    wanted = ["Deployment", operation.request.__name__, "Progress"]
    answer = getattr(operation.answer, "__name__", "")
    if isinstance(operation, Listing):
        assert len(places) == 4
        answer, places = f"Part[{operation.item.__name__}]", places[:2]
    elif get_origin(operation.answer) is tuple:
        answer = f"tuple[{get_args(operation.answer)[0].__name__}, ...]"
    assert [one.annotation for one in places] == wanted[: len(places)]
    assert places[1:] or operation.request is NoRequest
    assert does.return_annotation == answer


def test_what_a_row_names_is_loaded_when_it_is_needed() -> None:
    code = "import sys, registry.services.local; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    named = {f"registry.services.{operation.does.rpartition('.')[0]}" for operation in OPERATIONS}
    assert named.isdisjoint(loaded)
