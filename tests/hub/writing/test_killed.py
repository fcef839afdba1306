"""A service that is killed in the middle of pushes: nothing half is visible, nothing is lost, the next push works."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from registry.errors import NotFoundError
from registry.services.local import LocalRegistry
from tests.hub.writing.conftest import PAIR, repo_of
from tests.kit import plain_base, write_adapter
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess

TIMES = 5  # of each seed


@dataclass
class Scene:
    """A registry in a folder, served by one process after the other."""

    registry: LocalRegistry
    home: Home
    folder: Path
    secret: str

    @contextmanager
    def serving(self) -> Iterator[ServiceProcess]:
        service = ServiceProcess.started(self.home, {"REGISTRY_URL": str(self.folder / "registry")})
        yield service
        if service.running:
            service.close()

    def push(self, service: ServiceProcess, path: str, adapter: Path, *, apart: bool) -> bool:
        """Push both files, in one commit or in two; whether all of it was answered."""
        api = HfApi(endpoint=f"{service.url}/hf", token=self.secret)
        operations = [CommitOperationAdd(name, adapter / name) for name in PAIR]
        try:
            for one in [[operation] for operation in operations] if apart else [operations]:
                api.create_commit(repo_of(path), one, commit_message="x")
        except Exception:  # noqa: BLE001 - whatever the client raises when the service dies
            return False
        return True

    def count(self, path: str) -> int:
        try:
            return len(self.registry.log(path).revisions)
        except NotFoundError:
            return 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_it_is_killed_somewhere_in_a_push(tmp_path: Path, own_home: Home, seed: int) -> None:
    registry = LocalRegistry.open(tmp_path / "registry", create=True)
    base = plain_base(tmp_path / "base")
    registry.add_base("tiny", base.folder)
    scene = Scene(registry, own_home, tmp_path, registry.create_token("writer", name="writer").secret)
    draw, broken = random.Random(seed), 0
    for number in range(TIMES):
        path, apart = f"tiny/n{number}", bool(number % 2)
        adapter = write_adapter(tmp_path / f"a{number}", base, list(base.modules)[:2], r=2, seed=number)
        with scene.serving() as service, ThreadPoolExecutor(1) as pool:
            pushed = pool.submit(scene.push, service, path, adapter, apart=apart)
            time.sleep(draw.uniform(0, 0.4))
            service.kill()
            broken += not pushed.result()
        assert scene.count(path) <= 1
        with scene.serving() as service:
            assert scene.push(service, path, adapter, apart=apart)
        (revision,) = registry.log(path).revisions
        files = {file.path: file.digest for file in registry.show(revision.reference).files}
        assert files == {name: f"sha256:{hashlib.sha256((adapter / name).read_bytes()).hexdigest()}" for name in PAIR}
    assert not registry.fsck(deep=True).damage
    assert broken  # else no push was under way
    registry.close()
