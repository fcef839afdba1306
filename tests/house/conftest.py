"""The distributions, built once for the tests that look at them or install them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.root import ROOT


def built(project: Path, out: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, as `make dist` makes them: the wheel from what the sdist holds."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(project)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist of `adapter-registry`, built from this checkout by the build backend that is installed here."""
    return built(ROOT, tmp_path_factory.mktemp("distribution"))


@pytest.fixture(scope="session")
def wheel(distribution: tuple[Path, Path]) -> Path:
    """The distribution as a user gets it."""
    return distribution[0]


@pytest.fixture(scope="session")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of `adapter-registry-client`."""
    return built(ROOT / "client", tmp_path_factory.mktemp("client-distribution"))[0]
