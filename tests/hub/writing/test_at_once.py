"""Several clients at once, and a database and a store that several services share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd

from registry.app import service_app
from registry.services.local import LocalRegistry
from registry.services.pushing import chosen
from registry.storage.s3 import S3Driver
from tests.hub.writing.conftest import PAIR, Pushing, body, repo_of
from tests.kit import plain_base, write_adapter
from tests.kit.library import running
from tests.kit.servers import S3Place


def at_once(*calls: Callable[[], object]) -> list[object]:
    """What calls that begin together give."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def commit(pushing: Pushing, path: str, folder: Path, names: tuple[str, ...] = PAIR, who: str = "writer") -> str:
    """Send files in one commit; its id."""
    content = body({name: (folder / name).read_bytes() for name in names})
    with pushing.client(who) as client:
        answer = client.post(f"/api/models/{repo_of(path)}/commit/main", content=content)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["commitOid"])


def test_two_halves_at_once_are_one_revision(pushing: Pushing) -> None:
    for _ in range(8):
        path, folder = pushing.name(), pushing.adapter()
        at_once(*(partial(commit, pushing, path, folder, (name,)) for name in PAIR))
        assert len(pushing.revisions(path)) == 1


def test_two_trainers_at_once_make_two_revisions(pushing: Pushing, tmp_path: Path) -> None:
    for count in range(4):
        path, folders = pushing.name(), [pushing.adapter(), pushing.adapter()]
        who = ("writer", "writer of a")
        calls = [partial(commit, pushing, path, *given) for given in zip(folders, (PAIR, PAIR), who, strict=True)]
        first, second = at_once(*calls)
        assert first != second
        found = [pushing.files(f"{path}@{number}", tmp_path / f"{count}-{number}") for number in (1, 2)]
        expected = [{name: (folder / name).read_bytes() for name in PAIR} for folder in folders]
        assert found in (expected, expected[::-1])


def test_the_same_commit_twice_at_once_is_one_revision(pushing: Pushing) -> None:
    path, folder = pushing.name(), pushing.adapter()
    assert len(set(at_once(*[partial(commit, pushing, path, folder)] * 3))) == 1
    assert len(pushing.revisions(path)) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("large", [False, True], ids=["within the commit", "by LFS"])
def test_halves_at_two_services_of_a_team(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """On PostgreSQL and S3; large weights go to the bucket directly."""
    database: str = request.getfixturevalue("postgres_migrated_url")
    store: S3Place = request.getfixturevalue("s3_store")
    for name, value in store.environ.items():
        monkeypatch.setenv(name, value)
    if large:
        monkeypatch.setattr(chosen, "MOST_INLINE", 100)
    base = plain_base(tmp_path / "base")
    with ExitStack() as opened:
        replicas = [LocalRegistry.of(database, S3Driver(store.url)) for _ in range(2)]
        for replica in replicas:
            opened.callback(replica.close)
        replicas[0].add_base("tiny", base.folder)
        secrets = {"writer": replicas[0].create_token("writer", name="writer").secret}
        addresses = [opened.enter_context(running(service_app(replica))) for replica in replicas]
        here, there = (
            Pushing(replica, base, address, secrets, tmp_path)
            for replica, address in zip(replicas, addresses, strict=True)
        )
        for order in (PAIR, PAIR[::-1]):
            path = f"tiny/{order[0][8:11]}"
            folder = write_adapter(tmp_path / order[0], base, list(base.modules)[:2], r=2, seed=len(order[0]))
            for side, name in zip((here, there), order, strict=True):
                assert not side.revisions(path)
                operation = CommitOperationAdd(name, opened.enter_context((folder / name).open("rb")))
                side.api().create_commit(repo_of(path), [operation], commit_message="half")
            found = here.files(f"{path}@1", tmp_path / f"out-{order[0]}")
            assert found == {name: (folder / name).read_bytes() for name in PAIR}
        assert not replicas[0].gc(dry_run=True).uploads
