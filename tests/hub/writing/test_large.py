"""Weights that go by LFS: to a folder through the service; `tests/clients` has the store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError

from registry.services.intake import uploads
from registry.services.pushing import push as push_module
from registry.services.pushing import repo
from registry.services.pushing.push import same_files
from tests.hub.writing.conftest import PAIR, Pushing, body, repo_of

# The client's own, about how it calls its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True, params=[1 << 20, 300], ids=["one part", "parts"])
def _small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a few hundred bytes are large, and go in one part or in several."""
    monkeypatch.setattr(repo, "MOST_INLINE", 100)
    monkeypatch.setattr(uploads, "part_size", lambda _: request.param)


def push(pushing: Pushing, path: str, folder: Path, names: tuple[str, ...] = PAIR) -> str:
    """By LFS: what is no path goes so with every client."""
    with ExitStack() as opened:
        files = {name: opened.enter_context((folder / name).open("rb")) for name in names}
        operations = [CommitOperationAdd(name, file) for name, file in files.items()]
        return pushing.api().create_commit(repo_of(path), operations, commit_message="large").oid


def large(oid: str, size: int) -> bytes:
    value = {"path": PAIR[1], "algo": "sha256", "oid": oid, "size": size}
    return json.dumps({"key": "lfsFile", "value": value}).encode() + b"\n"


def test_they_come_whole(pushing: Pushing, tmp_path: Path) -> None:
    path, folder = pushing.name(), pushing.adapter()
    made = push(pushing, path, folder)
    assert pushing.files(f"{path}@1", tmp_path / "out") == {name: (folder / name).read_bytes() for name in PAIR}
    assert push(pushing, path, folder) == made
    assert [one.number for one in pushing.revisions(path)] == [1]


@pytest.mark.parametrize("order", [PAIR, PAIR[::-1]], ids=["config first", "weights first"])
def test_they_come_apart(pushing: Pushing, order: tuple[str, ...]) -> None:
    path, folder = pushing.name(), pushing.adapter()
    push(pushing, path, folder, order[:1])
    assert not pushing.revisions(path)
    push(pushing, path, folder, order[1:])
    assert [one.number for one in pushing.revisions(path)] == [1]


def test_a_commit_that_is_sent_again_finds_what_it_has_published(pushing: Pushing) -> None:
    path, folder = pushing.name(), pushing.adapter()
    made = push(pushing, path, folder)
    data = (folder / PAIR[1]).read_bytes()
    config = {PAIR[0]: (folder / PAIR[0]).read_bytes()}
    again = body(config) + large(hashlib.sha256(data).hexdigest(), len(data))
    with pushing.client() as client:
        answer = client.post(f"/api/models/{repo_of(path)}/commit/main", content=again)
    assert answer.json()["commitOid"] == made


def test_equal_weights_at_once_are_there_already(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both commits find the upload that they share before either takes it."""
    path, folder = pushing.name(), pushing.adapter()
    data = (folder / PAIR[1]).read_bytes()
    oid = hashlib.sha256(data).hexdigest()
    with ExitStack() as opened:
        weights = CommitOperationAdd(PAIR[1], opened.enter_context((folder / PAIR[1]).open("rb")))
        pushing.api().preupload_lfs_files(repo_of(path), [weights])
    content = body({PAIR[0]: (folder / PAIR[0]).read_bytes()}) + large(oid, len(data))
    both, look = threading.Barrier(2), same_files

    def looked(*given: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):  # of who looks again
            both.wait(timeout=120)
        both.abort()
        return look(*given)

    def commit() -> httpx.Response:
        with pushing.client() as client:
            return client.post(f"/api/models/{repo_of(path)}/commit/main", content=content)

    monkeypatch.setattr(push_module, "same_files", looked)
    with ThreadPoolExecutor(2) as pool:
        answers = [one.result() for one in [pool.submit(commit) for _ in range(2)]]
    assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
    assert len({answer.json()["commitOid"] for answer in answers}) == 1
    assert [one.number for one in pushing.revisions(path)] == [1]


def test_bytes_that_were_not_sent_or_are_others(pushing: Pushing) -> None:
    path, folder = pushing.name(), pushing.adapter()
    oid, size = hashlib.sha256(b"never sent").hexdigest(), 600
    pushed = body({}) + large(oid, size)
    with pushing.client() as client:
        commit = f"/api/models/{repo_of(path)}/commit/main"
        told = client.post(commit, content=pushed)
        assert (told.status_code, "were not uploaded" in told.text) == (422, True)
        asked = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]}
        batch = client.post(f"/{repo_of(path)}.git/info/lfs/objects/batch", json=asked).json()["objects"][0]
        upload = batch["actions"]["upload"]
        told = client.post(commit, content=pushed)  # begun, and nothing sent
        assert (told.status_code, "were not uploaded" in told.text) == (422, True)
        header_of = upload.get("header", {"chunk_size": str(size), "1": upload["href"]})
        length = int(header_of.pop("chunk_size"))
        wrong = (folder / PAIR[1]).read_bytes().ljust(size, b"x")[:size]
        for number, url in header_of.items():
            start = (int(number) - 1) * length
            assert client.put(url, content=wrong[start : start + length]).status_code == 200
        assert client.post(commit, content=pushed).status_code in {200, 422}
        config = CommitOperationAdd(PAIR[0], folder / PAIR[0])
    with pytest.raises(HfHubHTTPError, match=r"bad_safetensors|upload_mismatch"):
        pushing.api().create_commit(repo_of(path), [config], commit_message="x")
    assert not pushing.revisions(path)


def test_a_part_that_is_missing(pushing: Pushing) -> None:
    path, folder = pushing.name(), pushing.adapter()
    data = (folder / PAIR[1]).read_bytes()
    oid = hashlib.sha256(data).hexdigest()
    asked = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [{"oid": oid, "size": len(data)}]}
    with pushing.client() as client:
        batch = client.post(f"/{repo_of(path)}.git/info/lfs/objects/batch", json=asked).json()["objects"][0]
        parts = dict(batch["actions"]["upload"].get("header", {}))
        length = int(parts.pop("chunk_size", 0))
        for number, url in enumerate([*parts.values()][:-1]):
            assert client.put(url, content=data[number * length : (number + 1) * length]).headers["ETag"]
        told = client.post(batch["actions"]["upload"]["href"], json={"oid": oid, "parts": []}) if parts else None
        assert told is None or told.status_code == 200  # which is looked at when the commit comes
        config = {PAIR[0]: (folder / PAIR[0]).read_bytes()}
        told = client.post(f"/api/models/{repo_of(path)}/commit/main", content=body(config) + large(oid, len(data)))
        assert (told.status_code, "were not uploaded" in told.text) == (422, True)
    assert not pushing.revisions(path)
    push(pushing, path, folder)
    assert [one.number for one in pushing.revisions(path)] == [1]


def test_a_part_of_nothing(pushing: Pushing) -> None:
    with pushing.client("nobody") as client:
        told = client.put(f"/tiny/a.git/info/lfs/parts/{'0' * 32}/1", content=b"x")
        assert told.status_code == 422
        assert "no upload" in told.text
