"""What can't be pushed is refused by a status whose sentence clients show, and nothing of it is kept.

A token that is revoked, or expires, while the body of its push is on the way: nothing is published.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError
from sqlalchemy import text

from tests.hub.writing.conftest import PAIR, Pushing, body, repo_of

Refusal = tuple[int, str, str]  # status, code, words


def refused(answer: httpx.Response, status: int, code: str, words: str) -> None:
    assert answer.status_code == status, answer.text
    message = answer.headers["x-error-message"]
    assert message.endswith(f"({code})")
    assert words in message
    assert answer.json() == {"error": message} or words in answer.json()["error"]
    assert answer.headers.get("x-error-code") is None
    topic, _, sentence = answer.headers["x-hf-warning"].partition("; ")
    assert topic.split(" ")[0] == code
    assert words in sentence


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in PAIR}


def test_an_adapter_that_does_not_fit(pushing: Pushing) -> None:
    path = pushing.name()
    files = files_of(pushing.adapter(r=3)) | {"README.md": b"card"}
    with pushing.client() as client:
        answer = client.post(f"/api/models/{repo_of(path)}/commit/main", content=body(files))
        refused(answer, 422, "rank_mismatch", "rank")
        assert "step 5" in answer.headers["x-hf-warning"]
        for half in PAIR:  # nothing of it waits for the other half
            answer = client.post(f"/api/models/{repo_of(path)}/commit/main", content=body({half: files[half]}))
            assert answer.status_code in {200, 422}
    assert not pushing.revisions(path)
    (event, *_) = pushing.registry.events(kind="refused")
    assert event.detail["code"] == "rank_mismatch"
    assert repo_of(path) in str(event.detail["tried"])


CREATED: list[tuple[dict[str, Any], Refusal]] = [
    ({"name": "output", "organization": None}, (422, "usage", "BASE/NAME")),
    ({"name": "x", "organization": "nobody"}, (422, "not_found", "nobody")),
    ({"name": "none.x", "organization": "tiny"}, (422, "not_found", "tiny/none")),
    ({"name": "_", "organization": "tiny"}, (422, "usage", "base model")),
    ({"name": "UPPER", "organization": "tiny"}, (422, "bad_name", "UPPER")),
    ({"name": "x", "organization": "tiny", "type": "dataset"}, (422, "usage", "dataset")),
    ({"organization": "tiny"}, (400, "usage", "body.name")),
]


@pytest.mark.parametrize(("asked", "refusal"), CREATED, ids=[str(asked.get("name")) for asked, _ in CREATED])
def test_repos_that_can_not_be(pushing: Pushing, asked: dict[str, Any], refusal: Refusal) -> None:
    with pushing.client() as client:
        refused(client.post("/api/repos/create", json=asked), *refusal)


def test_who_may_not(pushing: Pushing) -> None:
    asked = {"name": "new", "organization": "tiny"}
    for who, words in (("reader", "needs the role writer"), ("writer of a", "it is for tiny/a")):
        with pushing.client(who) as client:
            refused(client.post("/api/repos/create", json=asked), 403, "not_allowed", words)
            commit = client.post("/api/models/tiny/new/commit/main", content=body(files_of(pushing.adapter())))
            refused(commit, 403, "not_allowed", words)
            refused(client.post("/api/models/tiny/new/preupload/main", json={"files": []}), 403, "not_allowed", words)
    with pushing.client("nobody") as client:
        assert client.post("/api/repos/create", json=asked).status_code == 401
    assert not pushing.revisions("tiny/new")


ANNOUNCED: list[tuple[list[str], Refusal]] = [
    (["adapter_config.json", "adapter_model.bin"], (422, "pickle", "safetensors")),
    (["config.json", "model.safetensors"], (422, "missing_file", "registry publish --full DIR tiny/a/new")),
    (["french/adapter_config.json", "french/adapter_model.safetensors"], (422, "missing_file", "folder french")),
]


@pytest.mark.parametrize(("names", "refusal"), ANNOUNCED, ids=[names[-1] for names, _ in ANNOUNCED])
def test_files_that_are_no_adapter_are_refused_before_they_travel(
    pushing: Pushing, names: list[str], refusal: Refusal
) -> None:
    asked = {"files": [{"path": name, "sample": "", "size": 100} for name in names]}
    with pushing.client() as client:
        refused(client.post("/api/models/tiny/a.new/preupload/main", json=asked), *refusal)


def test_sizes_are_refused_before_they_travel(pushing: Pushing) -> None:
    for name, size in (("adapter_model.safetensors", 6 << 30), ("adapter_config.json", 1 << 30)):
        with pushing.client() as client:
            answer = client.post(
                "/api/models/tiny/a.new/preupload/main", json={"files": [{"path": name, "sample": "", "size": size}]}
            )
        refused(answer, 413, "too_large", str(size))


BATCHES: list[tuple[dict[str, Any], Refusal]] = [
    ({"operation": "download"}, (422, "usage", "only the operation upload is served")),
    ({"objects": [{"oid": "0" * 64, "size": 6 << 30}]}, (413, "too_large", f"at most {5 << 30}")),
    ({"objects": [{"oid": "x", "size": 1}]}, (400, "usage", "body.objects.0.oid")),
]


@pytest.mark.parametrize(("asked", "refusal"), BATCHES, ids=["download", "too large", "no digest"])
def test_batches_of_lfs(pushing: Pushing, asked: dict[str, Any], refusal: Refusal) -> None:
    given = {"operation": "upload", "objects": [], **asked}
    with pushing.client() as client:
        refused(client.post("/tiny/a.new.git/info/lfs/objects/batch", json=given), *refusal)
    with pushing.client("reader") as client:
        answer = client.post("/tiny/a.new.git/info/lfs/objects/batch", json={"operation": "upload", "objects": []})
        refused(answer, 403, "not_allowed", "needs the role writer")


def test_what_a_push_does_not_do(pushing: Pushing) -> None:
    api, repo, add = pushing.api(), "tiny/a", CommitOperationAdd("README.md", b"x")
    calls: dict[str, Callable[[], object]] = {
        "can't delete files": lambda: api.create_commit(repo, [CommitOperationDelete("README.md")], commit_message="x"),
        "newer revision": lambda: api.create_commit(repo, [add], commit_message="x", parent_commit="0" * 40),
        "no branch 'dev'": lambda: api.create_commit(repo, [add], commit_message="x", revision="dev"),
        "no branch but main": lambda: api.create_branch(repo, branch="dev"),
        "no pull requests": lambda: api.create_commit(repo, [add], commit_message="x", create_pr=True),
        "registry delete": lambda: api.delete_repo(repo),
        "`registry rename`": lambda: api.move_repo(repo, "tiny/elsewhere"),
    }
    for words, call in calls.items():
        with pytest.raises(HfHubHTTPError, match=words) as caught:
            call()
        assert caught.value.response.status_code in {412, 422}
    api.update_repo_settings(repo, private=True)  # nothing to do
    assert [one.number for one in pushing.revisions("tiny/a")] == [1]


MALFORMED = [
    b"", b"{}", b"[]\n", b'{"key":"file","value":{"path":"a","content":""}}\n',
    body({}) + b'{"key":"file","value":{"path":"a"}}', body({}) + b'{"key":"what","value":{}}',
    body({}) + b'{"key":"file","value":{"content":"AAAA"}}',
    body({}) + b'{"key":"lfsFile","value":{"path":"adapter_model.safetensors","oid":"xyz","size":1}}',
]  # fmt: skip


@pytest.mark.parametrize("content", MALFORMED, ids=range(len(MALFORMED)))
def test_what_no_client_sends(pushing: Pushing, content: bytes) -> None:
    with pushing.client() as client:
        refused(client.post("/api/models/tiny/a.new/commit/main", content=content), 400, "usage", "malformed")


def test_names_that_lead_elsewhere_are_left_out(pushing: Pushing) -> None:
    path = pushing.name()
    files = files_of(pushing.adapter()) | {"../../x": b"1", "/etc/x": b"1", ".git/config": b"1", "a/README.md": b"1"}
    with pushing.client() as client:
        assert client.post(f"/api/models/{repo_of(path)}/commit/main", content=body(files)).status_code == 200
    (revision,) = pushing.revisions(path)
    shown = pushing.registry.show(revision.reference)
    assert {file.path for file in shown.files} == set(PAIR)


def test_yaml_of_a_card(pushing: Pushing) -> None:
    with pushing.client() as client:
        told = client.post("/api/validate-yaml", json={"content": "---\nlicense: mit\n---\n", "repoType": "model"})
        assert (told.status_code, told.json()["errors"]) == (200, [])
        told = client.post("/api/validate-yaml", json={"content": "---\n: [\n---\n", "repoType": "model"})
        assert told.status_code == 400
        assert "line" in told.json()["errors"][0]["message"]
    with pushing.client("nobody") as client:  # `ModelCard.push_to_hub` sends no token
        told = client.post("/api/validate-yaml", json={"content": "---\n: [\n---\n", "repoType": "model"})
        assert (told.status_code, told.json()["errors"]) == (200, [])
        told = client.post("/api/validate-yaml", json={"content": ""}, headers={"Authorization": "Bearer reg_nonsense"})
        assert told.status_code == 401


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_push_whose_token_ends_meanwhile_publishes_nothing(pushing: Pushing, how: str) -> None:
    made = pushing.registry.create_token("writer", name="short", expires_in=600)
    path = pushing.name()
    folder = pushing.adapter()
    whole = body({name: (folder / name).read_bytes() for name in PAIR})

    def admitted() -> bool:
        return any(one.id == made.token.id and one.last_used_at for one in pushing.registry.tokens())

    def slowly() -> Iterator[bytes]:
        yield whole[:100]
        deadline = time.monotonic() + 60
        while not admitted():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if how == "revoked":
            pushing.registry.revoke_token(made.token.id)
        else:
            with pushing.registry.deployment.database.write() as session:
                past = f"UPDATE tokens SET expires_at = '2026-01-02 03:04:05.000000' WHERE id = '{made.token.id}'"
                session.execute(text(past))
        yield whole[100:]

    with pushing.client() as client:
        answer = client.post(
            f"/api/models/{repo_of(path)}/commit/main",
            content=slowly(),
            headers={"Authorization": f"Bearer {made.secret}", "Content-Type": "application/x-ndjson"},
        )
    assert answer.status_code == 401, answer.text
    assert ("was revoked" if how == "revoked" else "expired on") in answer.json()["error"]
    assert pushing.revisions(path) == []
