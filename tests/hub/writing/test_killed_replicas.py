"""Two services on PostgreSQL and S3, of which one is killed in the middle of pushes: the other one goes on."""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi

from registry.errors import NotFoundError
from registry.schemas import RevisionSummary
from registry.services.local import LocalRegistry
from registry.storage.s3 import S3Driver
from tests.hub.writing.conftest import PAIR, repo_of
from tests.hub.writing.journeys import JOURNEYS, Journey
from tests.kit import plain_base, write_adapter
from tests.kit.servers import S3Place
from tests.kit.servers_service import SERVE, ServiceProcess
from tests.kit.shim import Shim

TIMES = 5  # of each seed
SMALL = "from registry.services.pushing import repo; repo.MOST_INLINE = 100; from registry.cli.main import main; main()"
"""Weights of a few hundred bytes go by LFS, to the store."""
WAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "within the commit": (SERVE, ("folder", "commit", "halves")),
    "by LFS": ((sys.executable, "-c", SMALL, *SERVE[3:]), ("large", "large_halves")),
}


@dataclass
class Team:
    """Two replicas, and the balancer that leads to one of them."""

    registry: LocalRegistry
    secret: str
    journeys: tuple[str, ...]
    services: list[ServiceProcess]
    start: Callable[[], ServiceProcess]
    balancer: Shim

    def push(self, journey: Journey, path: str, adapter: Path) -> bool:
        """Whether it came through."""
        try:
            journey(HfApi(endpoint=f"{self.balancer.url}/hf", token=self.secret), repo_of(path), adapter)
        except Exception:  # noqa: BLE001 - whatever the client raises when the service dies
            return False
        return True

    def fail_over(self) -> None:
        """Lead to the second one, which is the first from now on; the first is killed."""
        killed, second = self.services
        address = urlsplit(second.url)
        self.balancer.server = (str(address.hostname), address.port or 80)
        killed.kill()
        self.services = [second]

    def revisions(self, path: str) -> tuple[RevisionSummary, ...]:
        try:
            return self.registry.log(path).revisions
        except NotFoundError:
            return ()


@pytest.fixture(params=WAYS)
def team(
    request: pytest.FixtureRequest,
    postgres_migrated_url: str,
    s3_store: S3Place,
    start_service: Callable[..., ServiceProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Team]:
    command, journeys = WAYS[request.param]
    for name, value in s3_store.environ.items():
        monkeypatch.setenv(name, value)
    registry = LocalRegistry.of(postgres_migrated_url, S3Driver(s3_store.url))
    secret = registry.create_token("writer", name="writer").secret
    settings = {"REGISTRY_DATABASE_URL": postgres_migrated_url, "REGISTRY_STORE_URL": s3_store.url}

    def start() -> ServiceProcess:
        return start_service({**settings, **s3_store.environ}, command=command)

    services = [start(), start()]
    with Shim(services[0].url) as balancer:
        yield Team(registry, secret, journeys, services, start, balancer)
    registry.close()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_one_is_killed_somewhere_in_a_push(team: Team, tmp_path: Path, seed: int) -> None:
    base = plain_base(tmp_path / "base")
    team.registry.add_base("tiny", base.folder)
    draw, broken = random.Random(seed), 0
    for number in range(TIMES):
        journey = JOURNEYS[team.journeys[number % len(team.journeys)]]
        path = f"tiny/n{number}"
        adapter = write_adapter(tmp_path / f"a{number}", base, list(base.modules)[:2], r=2, seed=number)
        (adapter / "README.md").write_text("A card.\n")
        with ThreadPoolExecutor(1) as pool:
            pushed = pool.submit(team.push, journey, path, adapter)
            time.sleep(draw.uniform(0, 0.4))
            team.fail_over()
            broken += not pushed.result()
        assert len(team.revisions(path)) <= 1
        assert team.push(journey, path, adapter)
        (revision,) = team.revisions(path)
        files = {file.path: file.digest for file in team.registry.show(revision.reference).files}
        for name in PAIR:
            assert files[name] == f"sha256:{hashlib.sha256((adapter / name).read_bytes()).hexdigest()}"
        team.services.append(team.start())
    assert not team.registry.fsck(deep=True).damage
    assert broken  # else no push was under way
