"""The trials for seconds each. ``make test-long ONLY=trials`` runs them for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.kit.servers import S3Place
from tests.kit.shim import Shim
from tests.trials.processes import faults, kills, races
from tests.trials.requests import grow, held_against
from tests.trials.scene import Scene, Team

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


@pytest.fixture
def way(
    tmp_path: Path, postgres_migrated_url: str, s3_store: S3Place, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Scene, Shim]]:
    """A team's scene, and the way to its bucket."""
    with Shim(s3_store.endpoint) as store:
        for name, value in (s3_store.environ | {"AWS_ENDPOINT_URL": store.url, "AWS_MAX_ATTEMPTS": "2"}).items():
            monkeypatch.setenv(name, value)
        yield Scene.made(tmp_path, Team(postgres_migrated_url, s3_store.url)), store


def test_faults_of_the_store(way: tuple[Scene, Shim], seed: int) -> None:
    faults(*way, seed, SECONDS)


def test_kills_of_a_team(way: tuple[Scene, Shim], seed: int) -> None:
    assert kills(way[0], seed, SECONDS)


def test_requests(scene: Scene, seed: int, start_service: StartService) -> None:
    references = grow(scene)
    service = start_service({"REGISTRY_URL": str(scene.root / "registry")})
    assert held_against(scene, references, service.url, seed, SECONDS)
