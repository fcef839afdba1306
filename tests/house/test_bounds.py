"""Libraries whose inner parts are used: what uses them passes its tests with the oldest version that pyproject allows.

The newest is what all other tests run with: it is the upper bound, which is raised with the installed one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.root import ROOT

USES = {
    "sqlalchemy": ("tests/catalogue/database", "tests/http/test_reads.py"),
    "uvicorn": ("tests/http/test_strict.py", "tests/http/test_bodies.py"),
    "h11": ("tests/http/test_strict.py", "tests/http/test_bodies.py"),
}


def bounds(library: str) -> tuple[str, str]:
    """The lower and the upper bound of a library."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found = next(one for one in map(Requirement, told) if one.name == library)
    by_kind = {one.operator: one.version for one in found.specifier}
    return by_kind[">="], by_kind["<"]


@pytest.mark.parametrize("library", USES)
def test_the_installed_version_is_below_its_upper_bound(library: str) -> None:
    oldest, above = bounds(library)
    assert Version(oldest) <= Version(version(library)) < Version(above)


@pytest.mark.long
@pytest.mark.parametrize("library", USES)
def test_what_uses_inner_parts_passes_with_the_oldest_version(library: str, tmp_path: Path) -> None:
    oldest, _ = bounds(library)
    wanted = oldest if oldest.count(".") == 2 else f"{oldest}.0"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), f"{library}=={wanted}"]
    subprocess.run(pip, check=True)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *USES[library]],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
    assert re.search(r"\d+ passed", run.stdout)
