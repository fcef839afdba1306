"""Runs command lines in this process, on canned answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.cli.canned import CannedRegistry


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> CannedRegistry:
    """The registry that every command of this test opens."""
    registry = CannedRegistry()

    def opened(url: str | None = None, token: str | None = None, *, create: bool) -> CannedRegistry:
        del token
        registry.calls.append(("open", (url,), {"create": create}))
        return registry

    monkeypatch.setattr("registry.app.open_registry", opened)
    return registry


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in this process, with the streams of a pipe."""
    from registry.cli.program import run as run_command_line

    for name in ("COLUMNS", "NO_COLOR", "REGISTRY_DEBUG", "REGISTRY_URL"):
        monkeypatch.delenv(name, raising=False)

    def call(*args: str) -> Ended:
        code = run_command_line(args)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call
