"""What each call of the client that changes something comes to, and what its user reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import LFSFileInfo

from registry.app import service_app
from tests.hub.writing.conftest import PAIR, Pushing, repo_of
from tests.kit.library import running
from tests.kit.shim import Shim

ADD = (CommitOperationAdd("README.md", b"x"),)
PUBLISHED = "What was published is not changed: a push can't delete files. To take a revision back, use `registry "
ELSEWHERE = "A Hub client can't delete, move or rewrite what was published: use `registry delete`, `registry retract`"
NO_BRANCH = "A repo has no branch but main: push to main, and name the revision by a tag (create_tag). (usage)"
LFS = LFSFileInfo(oid="0" * 64, fileOid="0" * 40, filename="x", pushedAt="2026-01-01T00:00:00.000Z", ref="main", size=1)
NO_REQUESTS = "This registry has no pull requests"

Call = Callable[[HfApi, str], object]
REFUSED: dict[str, tuple[Call, int, str]] = {
    "delete_file": (lambda api, repo: api.delete_file("README.md", repo), 422, PUBLISHED),
    "delete_files": (lambda api, repo: api.delete_files(repo, ["*.json"]), 422, PUBLISHED),
    "delete_folder": (lambda api, repo: api.delete_folder("sub", repo), 422, PUBLISHED),
    "copy": (
        lambda api, repo: api.create_commit(repo, [CommitOperationCopy(PAIR[1], "b.safetensors")], commit_message="x"),
        422,
        "A push can't copy files: send b.safetensors itself",
    ),
    "permanently_delete_lfs_files": (
        lambda api, repo: api.permanently_delete_lfs_files(repo, [LFS], rewrite_history=False), 422, ELSEWHERE,
    ),
    "create_branch": (lambda api, repo: api.create_branch(repo, branch="dev"), 422, NO_BRANCH),
    "delete_branch": (lambda api, repo: api.delete_branch(repo, branch="dev"), 422, NO_BRANCH),
    "create_commit(create_pr)": (
        lambda api, repo: api.create_commit(repo, ADD, commit_message="x", create_pr=True), 422, NO_REQUESTS,
    ),
    "upload_folder(create_pr)": (
        lambda api, repo: api.upload_folder(repo_id=repo, folder_path=Path(__file__).parent, create_pr=True),
        422,
        NO_REQUESTS,
    ),
    "create_pull_request": (lambda api, repo: api.create_pull_request(repo, title="x"), 422, NO_REQUESTS),
    "parent_commit": (
        lambda api, repo: api.create_commit(repo, ADD, commit_message="x", parent_commit="0" * 40),
        412,
        "has a newer revision than the one this commit is based on",
    ),
    "super_squash_history": (lambda api, repo: api.super_squash_history(repo), 422, ELSEWHERE),
    "move_repo": (lambda api, repo: api.move_repo(repo, "tiny/elsewhere"), 422, ELSEWHERE),
    "delete_repo": (lambda api, repo: api.delete_repo(repo), 422, ELSEWHERE),
    "create_repo": (lambda api, repo: api.create_repo(repo), 409, "exists already"),
    "create_repo(dataset)": (
        lambda api, repo: api.create_repo(repo, repo_type="dataset"), 422, "This registry has models only",
    ),
    "update_repo_settings": (
        lambda api, _: api.update_repo_settings("tiny/nothing", private=True), 422, "There is no adapter tiny/nothing.",
    ),
    "update_repo_settings(gated)": (
        lambda api, repo: api.update_repo_settings(repo, gated="auto"), 422, "This registry has no gates",
    ),
    "create_tag": (lambda api, _: api.create_tag("tiny/nothing", tag="best"), 422, "There is no adapter tiny/nothing."),
    "create_tag(base)": (lambda api, _: api.create_tag("tiny/_", tag="best"), 422, "tiny/_ is a base model, which has"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_calls_that_are_refused(pushing: Pushing, name: str) -> None:
    call, status, words = REFUSED[name]
    with pytest.raises(HfHubHTTPError) as caught:
        call(pushing.api(view="hf-published"), "tiny/a")
    assert caught.value.response.status_code == status, str(caught.value)
    assert words in str(caught.value)
    assert [one.number for one in pushing.revisions("tiny/a")] == [1]


SOURCES: dict[str, Callable[[Path], bytes | io.BytesIO]] = {
    "bytes": Path.read_bytes,
    "file object": lambda file: io.BytesIO(file.read_bytes()),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_file_that_is_no_path(pushing: Pushing, tmp_path: Path, source: str) -> None:
    path, folder, api = pushing.name(), pushing.adapter(), pushing.api()
    made = [
        api.upload_file(repo_id=repo_of(path), path_or_fileobj=SOURCES[source](folder / name), path_in_repo=name)
        for name in PAIR
    ]
    assert pushing.files(f"{path}@1", tmp_path / "out") == {name: (folder / name).read_bytes() for name in PAIR}
    assert api.model_info(repo_of(path)).sha == made[-1].oid


def test_a_commit_on_the_newest_one(pushing: Pushing) -> None:
    path, api = pushing.name(), pushing.api()
    first = api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    folder = pushing.adapter()
    second = api.upload_folder(repo_id=repo_of(path), folder_path=folder, parent_commit=first.oid)
    assert [one.number for one in pushing.revisions(path)] == [1, 2]
    with pytest.raises(HfHubHTTPError, match=f"based on, {second.oid}"):
        api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter(), parent_commit=first.oid)


def test_commits_of_which_nothing_is_kept(pushing: Pushing, tmp_path: Path) -> None:
    """All their files are declined, and clients send the header alone, or no commit."""
    path, api = pushing.name(), pushing.api()
    for name in ("tokenizer.json", "runs/events.1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    made = api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    file = tmp_path / "tokenizer.json"
    alone = api.upload_file(repo_id=repo_of(path), path_or_fileobj=file, path_in_repo="tokenizer.json")
    below = api.upload_folder(
        repo_id=repo_of(path), folder_path=tmp_path, path_in_repo="last-checkpoint", delete_patterns="*"
    )
    assert alone.oid == below.oid == made.oid
    assert len(pushing.revisions(path)) == 1
    empty = repo_of(pushing.name())
    api.create_repo(empty)
    assert api.upload_folder(repo_id=empty, folder_path=tmp_path).oid == api.model_info(empty).sha


def test_many_files_that_are_refused_are_refused_once(pushing: Pushing) -> None:
    """Clients send a refused commit of more than 20 files again in pieces: here it never has so many."""
    path, folder = pushing.name(), pushing.adapter(r=3)
    for number in range(25):
        (folder / f"notes-{number}.md").write_text("x")
    with Shim(pushing.address) as shim:
        api = HfApi(endpoint=f"{shim.url}/hf", token=pushing.secrets["writer"])
        with pytest.raises(HfHubHTTPError, match="rank_mismatch"):
            api.upload_folder(repo_id=repo_of(path), folder_path=folder)
        assert [one.status for one in shim.seen(target="/commit/")] == [422]
    assert not pushing.revisions(path)


def test_settings_of_a_repo_are_those_of_who_may_push_to_it(pushing: Pushing) -> None:
    begun = repo_of(pushing.name())
    pushing.api().create_repo(begun)
    for repo in ("tiny/a", begun):
        settings: tuple[dict[str, Any], ...] = ({"private": True}, {"private": False}, {"gated": False})
        for given in settings:
            pushing.api().update_repo_settings(repo, **given)
    for who, status in (("reader", 403), ("nobody", 401)):
        with pytest.raises(HfHubHTTPError) as caught:
            pushing.api(who).update_repo_settings("tiny/a", private=True)
        assert caught.value.response.status_code == status


ASKED = [
    ({"visibility": "private"}, "is seen by whoever has a token whose scopes cover it, and by nobody else"),
    ({"private": True}, "is seen by whoever has a token whose scopes cover it, and by nobody else"),
    ({"visibility": "public"}, "stays hidden from who has no token"),
    ({"private": False}, "stays hidden from who has no token"),
    ({"gated": False}, ""),
    ({}, ""),
]
"""Settings, and what clients print of them where nobody reads without a token."""


@pytest.mark.parametrize(("given", "words"), ASKED, ids=[str(given) for given, _ in ASKED])
def test_what_does_nothing_is_warned_of(pushing: Pushing, given: dict[str, object], words: str) -> None:
    with pushing.client() as client:
        answer = client.put("/api/models/tiny/a/settings", json=given)
        assert answer.status_code == 200
        warned = answer.headers.get("x-hf-warning", "")
        assert (words in warned) if words else not warned
        name = pushing.name().replace("/", ".").removeprefix("tiny.")
        made = client.post("/api/repos/create", json={"organization": "tiny", "name": name, **given})
        assert (made.status_code, made.json()["id"]) == (200, f"tiny/{name}")
        warned = made.headers.get("x-hf-warning", "")
        assert ("by nobody else" in warned) == ("by nobody else" in words)


def test_what_everybody_would_read_is_not_called_private(pushing: Pushing) -> None:
    """Trainers ask for it (hub_private_repo) before they push anything."""
    begun = repo_of(pushing.name())
    with running(service_app(pushing.registry, anonymous="read")) as address:
        api = HfApi(endpoint=f"{address}/hf", token=pushing.secrets["writer"])
        for call in (
            lambda: api.create_repo(begun, private=True, exist_ok=True),
            lambda: api.create_repo("tiny/a", private=True, exist_ok=True),
            lambda: api.update_repo_settings("tiny/a", private=True),
        ):
            with pytest.raises(HfHubHTTPError, match="everybody who reaches it reads all of it") as caught:
                call()
            assert caught.value.response.status_code == 422
        with pytest.raises(HfHubHTTPError):
            api.model_info(begun)
        api.create_repo(begun, private=False)
        for given in ({"private": False}, {"visibility": "public"}, {"gated": False}):
            answer = httpx.put(
                f"{address}/hf/api/models/tiny/a/settings",
                json=given,
                headers={"Authorization": f"Bearer {pushing.secrets['writer']}"},
            )
            assert (answer.status_code, answer.headers.get("x-hf-warning")) == (200, None)


def test_a_repo_does_not_begin_with_files_that_would_be_lost(pushing: Pushing) -> None:
    with pushing.client() as client:
        files = [{"path": "README.md", "encoding": "base64", "content": ""}]
        answer = client.post("/api/repos/create", json={"organization": "tiny", "name": "a.files", "files": files})
        assert answer.status_code == 422
        assert "A repo begins empty here" in answer.json()["error"]
