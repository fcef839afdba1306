"""Several clients at once, and a database and a store that several services share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from huggingface_hub import CommitOperationAdd
from sqlalchemy import func, select

from registry.app import service_app
from registry.catalogue.database.team_tables import PushedFileRecord
from registry.schemas import Published
from registry.services.local import LocalRegistry
from registry.services.publishing.publish import publish_draft
from registry.services.pushing import push as push_module
from registry.services.pushing import repo
from registry.storage.s3 import S3Driver
from tests.hub.writing.conftest import PAIR, Pushing, body, repo_of
from tests.kit import plain_base
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


def test_a_half_that_comes_while_others_are_published_waits_for_its_own(
    pushing: Pushing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder, following = pushing.name(), pushing.adapter(), pushing.adapter()

    def publish_late(*given: Any) -> Published:
        monkeypatch.setattr(push_module, "publish_draft", publish_draft)
        commit(pushing, path, following, PAIR[:1])
        return publish_draft(*given)

    monkeypatch.setattr(push_module, "publish_draft", publish_late)
    commit(pushing, path, folder)
    commit(pushing, path, following, PAIR[1:])
    for number, one in enumerate((folder, following), 1):
        expected = {name: (one / name).read_bytes() for name in PAIR}
        assert pushing.files(f"{path}@{number}", tmp_path / str(number)) == expected
    with pushing.registry.deployment.read() as session:
        assert session.scalar(select(func.count()).where(PushedFileRecord.path == path)) == 0


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("other", [False, True], ids=["the same repo", "another repo"])
def test_equal_files_that_another_push_took_are_there_already(
    pushing: Pushing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    """Both come by LFS, and what they uploaded is one upload, by its digest and the token: the first push uses it."""
    monkeypatch.setattr(repo, "MOST_INLINE", 100)
    path, folder = pushing.name(), pushing.adapter()
    first = pushing.name() if other else path

    def push(path: str) -> None:
        with ExitStack() as opened:
            files = [CommitOperationAdd(name, opened.enter_context((folder / name).open("rb"))) for name in PAIR]
            pushing.api().create_commit(repo_of(path), files, commit_message="step 5")

    def publish_late(*given: Any) -> Published:
        monkeypatch.setattr(push_module, "publish_draft", publish_draft)
        push(first)
        return publish_draft(*given)

    monkeypatch.setattr(push_module, "publish_draft", publish_late)
    push(path)
    for one in {path, first}:
        assert [revision.number for revision in pushing.revisions(one)] == [1]
        assert pushing.files(f"{one}@1", tmp_path / one) == {name: (folder / name).read_bytes() for name in PAIR}


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


def race(pushing: Pushing, path: str, parent: str) -> list[httpx.Response]:
    """Four commits of different adapters at once, all based on the same commit."""

    def push(folder: Path) -> httpx.Response:
        content = body({name: (folder / name).read_bytes() for name in PAIR}, parentCommit=parent)
        with pushing.client() as client:
            return client.post(f"/api/models/{repo_of(path)}/commit/main", content=content)

    folders = [pushing.adapter() for _ in range(4)]
    return cast(list[httpx.Response], at_once(*(partial(push, folder) for folder in folders)))


def test_of_commits_with_one_parent_one_is_taken(pushing: Pushing) -> None:
    for _ in range(5):
        path = pushing.name()
        first = commit(pushing, path, pushing.adapter())
        answers = race(pushing, path, first)
        assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412], [one.text for one in answers]
        refused = next(answer for answer in answers if answer.status_code == 412)
        assert "a newer revision than the one" in refused.json()["error"]
        assert [one.number for one in pushing.revisions(path)] == [1, 2]


def test_of_first_commits_of_one_repo_one_is_taken(pushing: Pushing) -> None:
    path = pushing.name()
    pushing.api().create_repo(repo_of(path))
    empty = pushing.api().model_info(repo_of(path)).sha
    assert empty is not None
    answers = race(pushing, path, empty)
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412], [one.text for one in answers]
    assert [one.number for one in pushing.revisions(path)] == [1]


@pytest.fixture
def replicas(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Pushing, Pushing]]:
    """Two services of a team, on PostgreSQL and S3."""
    database: str = request.getfixturevalue("postgres_migrated_url")
    store: S3Place = request.getfixturevalue("s3_store")
    for name, value in store.environ.items():
        monkeypatch.setenv(name, value)
    base = plain_base(tmp_path / "base")
    with ExitStack() as opened:
        made = [LocalRegistry.of(database, S3Driver(store.url)) for _ in range(2)]
        for replica in made:
            opened.callback(replica.close)
        made[0].add_base("tiny", base.folder)
        secrets = {"writer": made[0].create_token("writer", name="writer").secret}
        addresses = [opened.enter_context(running(service_app(replica))) for replica in made]
        here, there = (
            Pushing(replica, base, address, secrets, tmp_path) for replica, address in zip(made, addresses, strict=True)
        )
        yield here, there


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("large", [False, True], ids=["within the commit", "by LFS"])
def test_halves_at_two_services_of_a_team(
    replicas: tuple[Pushing, Pushing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """Large weights go to the bucket directly."""
    if large:
        monkeypatch.setattr(repo, "MOST_INLINE", 100)
    here, _ = replicas
    for order in (PAIR, PAIR[::-1]):
        path = f"tiny/{order[0][8:11]}"
        folder = here.adapter(seed=len(order[0]))
        with ExitStack() as opened:
            for side, name in zip(replicas, order, strict=True):
                assert not side.revisions(path)
                operation = CommitOperationAdd(name, opened.enter_context((folder / name).open("rb")))
                side.api().create_commit(repo_of(path), [operation], commit_message="half")
        found = here.files(f"{path}@1", tmp_path / f"out-{order[0]}")
        assert found == {name: (folder / name).read_bytes() for name in PAIR}
    assert not here.registry.gc(dry_run=True).uploads


@pytest.mark.slow
def test_what_comes_at_once_at_two_services_of_a_team(replicas: tuple[Pushing, Pushing]) -> None:
    here, _ = replicas
    for turn in range(5):
        path, folder = here.name("tiny"), here.adapter()
        halves = zip(replicas, PAIR, strict=True)
        at_once(*(partial(commit, side, path, folder, (name,)) for side, name in halves))
        assert [one.number for one in here.revisions(path)] == [1]
        newest = here.api().model_info(repo_of(path)).sha
        assert newest is not None
        answers = race(replicas[turn % 2], path, newest)
        assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412], [one.text for one in answers]
        assert [one.number for one in here.revisions(path)] == [1, 2]
