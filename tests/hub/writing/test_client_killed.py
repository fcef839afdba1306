"""Clients that are killed in the middle of a push: nothing half is visible, and the next push works."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.catalogue.database.team_tables import PushedFileRecord, UploadRecord
from registry.schemas.protocol import HUB_ORIGIN
from registry.services.intake import uploads
from registry.services.pushing import repo
from tests.hub.writing import pusher
from tests.hub.writing.conftest import PAIR, Pushing, repo_of
from tests.kit import plain_base, write_adapter
from tests.kit.shim import Fault, Shim

WAYS = ("folder", "commit", "halves", "large")


@dataclass
class Scene:
    """Client processes, each on the line that shows when it is to be killed."""

    pushing: Pushing
    shim: Shim

    def push(self, how: str, path: str, adapter: Path, fault: Fault | None = None) -> bool:
        """Push in a new process, which is killed where a fault says so; whether it came through."""
        environ = os.environ | {
            "HF_ENDPOINT": f"{self.shim.url}/hf",
            "HF_TOKEN": self.pushing.secrets["writer"],
            "HF_HOME": str(self.pushing.root / "home"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_USER_AGENT_ORIGIN": HUB_ORIGIN,
        }
        command = [sys.executable, pusher.__file__, how, repo_of(path), str(adapter)]
        with subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as client:
            if fault is not None:
                fault.then, fault.times = client.kill, 1
                self.shim.faults = [fault]
            said, complained = client.communicate()
        self.shim.seen()  # the service may still be at what came from a client that is gone
        assert client.returncode in {0, -9}, complained
        return client.returncode == 0 and bool(said.strip())

    def check(self, path: str, *adapters: Path) -> None:
        """One revision of each adapter, byte by byte."""
        assert [one.number for one in self.pushing.revisions(path)] == list(range(1, len(adapters) + 1))
        for number, adapter in enumerate(adapters, 1):
            found = self.pushing.files(f"{path}@{number}", adapter / "back")
            assert found == {name: (adapter / name).read_bytes() for name in PAIR}


@pytest.fixture
def scene(pushing: Pushing) -> Iterator[Scene]:
    with Shim(pushing.address) as shim:
        yield Scene(pushing, shim)


@pytest.fixture
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client has in no path goes by LFS, in parts."""
    monkeypatch.setattr(repo, "MOST_INLINE", 100)
    monkeypatch.setattr(uploads, "part_size", lambda _: 200)


COMMIT = "/commit/main$"
MOMENTS = {
    "between the bytes and the commit": ("large", Fault(target=COMMIT)),
    "among the bytes": ("large", Fault(method="PUT", skip=1)),
    "between two commits": ("halves", Fault(target="/preupload/", skip=1)),
}
"""The client has not sent the request that shows the moment, or the service does not hear that it is gone."""


@pytest.mark.slow
@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("moment", MOMENTS)
def test_between_its_steps(scene: Scene, moment: str) -> None:
    how, fault = MOMENTS[moment]
    path, adapter, pushing = scene.pushing.name(), scene.pushing.adapter(), scene.pushing
    fault.cut_request = 0  # it was killed before this request
    assert not scene.push(how, path, adapter, fault)
    assert not pushing.revisions(path)
    assert not pushing.api("reader").repo_exists(repo_of(path))
    again = pushing.adapter()  # another one: nothing of the first is mixed into it
    assert scene.push("commit" if how == "halves" else how, path, again)
    scene.check(path, again)


@pytest.mark.long
@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("how", WAYS)
def test_at_any_request(scene: Scene, how: str) -> None:
    """Thirty times: before one reaches the service, or when it is done and the client has not heard of it."""
    pushing, draw = scene.pushing, random.Random(how)
    assert scene.push(how, pushing.name(), pushing.adapter())  # a client that starts first asks more
    scene.shim.forget()
    assert scene.push(how, pushing.name(), pushing.adapter())
    count, done = len(scene.shim.seen()), 0
    for _ in range(30):
        path, adapter, later = pushing.name(), pushing.adapter(), pushing.adapter()
        fault = Fault(cut_request=0) if draw.random() < 0.5 else Fault(lose_answer=True)
        fault.skip = draw.randrange(count)
        assert not scene.push(how, path, adapter, fault)
        done += (there := len(pushing.revisions(path)))
        assert there or not pushing.api("reader").repo_exists(repo_of(path))
        if draw.random() < 0.5:  # the same again, or at once the next one
            assert scene.push(how, path, adapter)
            scene.check(path, adapter)
            there = 1
        assert scene.push(how, path, later)
        scene.check(path, *([adapter, later] if there else [later]))
    assert 0 < done < 30


@pytest.mark.long
def test_within_the_body_of_a_commit(scene: Scene) -> None:
    """Thirty times, after so many of 11 MB."""
    pushing, draw = scene.pushing, random.Random("body")
    base = plain_base(pushing.root / "wide", {"body.weight": (1024, 1024)})
    pushing.registry.add_base("wide", base.folder)
    adapters = [write_adapter(pushing.root / f"wide-{seed}", base, r=1024, seed=seed) for seed in (1, 2)]
    for number in range(30):
        path = f"wide/n{number}"
        sent = draw.randrange(10 << 20)
        assert not scene.push("folder", path, adapters[0], Fault(target=COMMIT, at=sent, cut_request=sent + (1 << 17)))
        assert scene.shim.seen(target=COMMIT)[-1].status == 0
        assert not pushing.revisions(path)
    for number in range(3):
        assert scene.push("folder", f"wide/n{number}", adapters[1])
        scene.check(f"wide/n{number}", adapters[1])


def test_what_was_left_is_dropped_after_a_day(pushing: Pushing) -> None:
    path, api, deployment = pushing.name(), pushing.api(), pushing.registry.deployment
    folder = pushing.adapter()

    def push(*names: str) -> None:
        operations = [CommitOperationAdd(name, folder / name) for name in names]
        api.create_commit(repo_of(path), operations, commit_message="x")

    push(PAIR[1])
    assert api.repo_exists(repo_of(path))

    def a_day_later(session: Session) -> None:
        for record in (PushedFileRecord, UploadRecord):
            session.execute(update(record).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))

    deployment.change(a_day_later)
    assert not api.repo_exists(repo_of(path))
    push(PAIR[0])  # which finds nothing that it completes
    assert not pushing.revisions(path)
    deployment.change(a_day_later)
    assert pushing.registry.gc().uploads
    with deployment.read() as session:
        assert not session.scalars(select(PushedFileRecord.name).where(PushedFileRecord.path == path)).all()
    push(*PAIR)
    assert len(pushing.revisions(path)) == 1
