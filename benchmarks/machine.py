"""The machine and the code that figures are from."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PACKAGES = ("torch", "safetensors", "transformers", "peft", "sqlalchemy", "uvicorn")


@dataclass(frozen=True)
class Machine:
    """What figures depend on."""

    cpu: str
    cores: int
    memory: int  # bytes
    system: str
    python: str
    packages: Mapping[str, str]

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {found}" for name, found in self.packages.items())
        gibibytes = f"{self.memory / 2**30:.0f} GiB"
        return f"{self.cpu}, {self.cores} cores, {gibibytes}, {self.system}, Python {self.python}, {packages}"


def machine() -> Machine:
    """This one."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return Machine(
        cpu,
        os.cpu_count() or 1,
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        platform.system(),
        platform.python_version(),
        {name: version(name) for name in _PACKAGES},
    )


def commit() -> str:
    """The commit of this checkout, with a + where files differ from it; "none" outside of one."""
    described = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(described, cwd=ROOT, check=False, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "none"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
