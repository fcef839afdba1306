"""Environments of their own, with what is installed here and nothing that is downloaded."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def attempt(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command away from the checkout, with nothing of this process's Python settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REGISTRY_"))}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**clean, **environment},
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What such a command prints; it has to succeed."""
    done = attempt(*command, cwd=cwd, **environment)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment(folder: Path) -> tuple[Path, Path]:
    """An empty virtual environment: its Python and its folder of packages."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    return python, packages


def with_dependencies(requirements: list[str]) -> dict[str, Distribution]:
    """The distributions of this environment that the requirements ask for, and what those ask for."""
    found: dict[str, Distribution] = {}
    open_ones = [Requirement(text) for text in requirements]
    while open_ones:
        wanted = open_ones.pop()
        name = wanted.name.lower().replace("_", "-")
        if name not in found and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            found[name] = distribution(name)
            open_ones += [Requirement(text) for text in found[name].requires or ()]
    return found


def link(one: Distribution, packages: Path) -> None:
    """Let an environment see a distribution that is installed here."""
    parts = {file.parts[0] for file in one.files or () if file.parts[0] not in {"..", "__pycache__"}}
    for part in parts:
        (packages / part).symlink_to(Path(str(one.locate_file(part))))
