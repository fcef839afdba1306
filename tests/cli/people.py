"""Somebody at a command line, with an environment of their own: each command runs in this process, in a pipe."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from registry.cli.program import run as run_command_line
from tests.cli.conftest import Ended

NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Person:
    """Somebody with folders of their own, and with settings."""

    home: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str, given: str = "", code: int = 0, settings: Mapping[str, str] = NONE) -> Ended:
        """Run a command line that has to end with ``code``; ``given`` comes from stdin, which is no terminal."""
        folders = {name: str(self.home / name) for name in ("config", "data", "cache")}
        environ = {f"XDG_{name.upper()}_HOME": folder for name, folder in folders.items()}
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("REGISTRY_", "AWS_"))]:
                patch.delenv(name)
            for name, value in {**environ, **settings}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO(given))
            ended = run_command_line(words)
        captured = self.capsys.readouterr()
        assert ended == code, captured.out + captured.err
        return Ended(ended, captured.out, captured.err)

    @property
    def kept(self) -> Path:
        """The file of `registry login`."""
        return self.home / "config" / "adapter-registry" / "credentials.json"
