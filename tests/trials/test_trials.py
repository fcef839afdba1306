"""The trials for seconds each. ``make trials`` runs them for long."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.trials.processes import kills, races
from tests.trials.requests import grow, held_against
from tests.trials.scene import Scene

pytestmark = pytest.mark.long
SECONDS = 8


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene.made(tmp_path)


@pytest.fixture
def seed() -> int:
    """Another one each run; every failure says it."""
    return time.time_ns() % (1 << 31)


def test_kills(scene: Scene, seed: int) -> None:
    assert kills(scene, seed, SECONDS)


def test_races(scene: Scene, seed: int) -> None:
    assert races(scene, seed, SECONDS)


def test_requests(scene: Scene, seed: int, start_service: StartService) -> None:
    references = grow(scene)
    service = start_service({"REGISTRY_URL": str(scene.root / "registry")})
    assert held_against(scene, references, service.url, seed, SECONDS)
