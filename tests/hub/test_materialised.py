"""A path that is kept in the store: all replicas name its bytes by the same commit, whoever made them.

Uses through the views: a download of weights is one, however many requests it takes; looking around is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from registry.app import service_app
from registry.services.artifacts.commits import _made_by
from registry.tensors.artifacts import plan
from tests.hub.conftest import WEIGHTS, assert_missing, fill, sha
from tests.kit.library import Library, running
from tests.kit.shelf import Shelf

OTHER = "0123456789abcdef"  # the arithmetic of another machine


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = fill(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(shelf: Shelf) -> Iterator[httpx.Client]:
    with running(service_app(shelf.registry, "open")) as address, httpx.Client(base_url=address, timeout=120) as one:
        yield one


@pytest.mark.parametrize("view", ["hf", "hf-lora"])
def test_main_has_the_commit_of_what_is_kept(
    shelf: Shelf, client: httpx.Client, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, first = sha(client, view, "tiny/a"), sha(client, view, "tiny/a", "r1")
    address = f"/{view}/tiny/a/resolve/{own}/{WEIGHTS[view]}"
    before = client.get(address)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(plan, "fingerprint", lambda: OTHER)
        shelf.registry.materialise("tiny/a", kind="merged" if view == "hf" else "lora")
    kept = sha(client, view, "tiny/a")
    assert kept == own[:28] + _made_by(OTHER, "tiny/_") != own
    assert sha(client, view, "tiny/a", "r1") == first
    refs = client.get(f"/{view}/api/models/tiny/a/refs").json()
    assert refs["branches"][0]["targetCommit"] == kept
    assert {one["name"]: one["targetCommit"] for one in refs["tags"]} == {"r1": first, "prod": first, "r2": kept}
    assert [one["id"] for one in client.get(f"/{view}/api/models/tiny/a/commits/main").json()] == [kept, first]

    stored = client.get(f"/{view}/tiny/a/resolve/{kept}/{WEIGHTS[view]}")
    assert (stored.headers["x-repo-commit"], stored.content) == (kept, before.content)
    assert stored.headers["etag"] != before.headers["etag"]
    entries = client.get(f"/{view}/api/models/tiny/a/tree/{kept}?recursive=true").json()
    hashes = {entry["path"]: entry["lfs"]["oid"] for entry in entries if entry["type"] == "file"}
    assert hashes[WEIGHTS[view]] == hashlib.sha256(stored.content).hexdigest()
    if view == "hf":
        assert "adapter_config.json" not in hashes
        gone = client.get(f"/hf/tiny/a/resolve/{kept}/adapter_config.json")
        assert_missing(gone, "EntryNotFound", commit=kept)

    # Who began with what this machine computes goes on with that.
    again = client.get(address)
    assert (again.status_code, again.content) == (200, before.content)
    assert (again.headers["etag"], again.headers["x-repo-commit"]) == (before.headers["etag"], own)
    assert sha(client, view, "tiny/a", own) == own
    listed = client.get(f"/{view}/api/models/tiny/a/tree/{own}").json()
    assert all("lfs" not in entry for entry in listed if entry["path"] == WEIGHTS[view])


def test_what_others_kept_and_was_retracted_takes_no_list_down(
    shelf: Shelf, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(plan, "fingerprint", lambda: OTHER)
        shelf.registry.materialise("tiny/a@1", kind="merged")
    shelf.registry.retract("tiny/a@1", reason="poisoned")
    refs = client.get("/hf/api/models/tiny/a/refs")
    assert [one["name"] for one in refs.json()["tags"]] == ["r2"]
    assert len(client.get("/hf/api/models/tiny/a/commits/main").json()) == 2


def used(library: Library, ref: str) -> dict[str, int]:
    assert library.registry.deployment.uses is not None
    library.registry.deployment.uses.write()
    found = library.registry.show(ref).use
    assert found is not None
    return found.by_interface


@pytest.mark.parametrize("view", WEIGHTS)
def test_a_download_is_one_use(shelf_service: tuple[Library, httpx.Client], view: str) -> None:
    library, client = shelf_service
    commit = sha(client, view, "tiny/a", "r1")
    at = f"/{view}/tiny/a/resolve/{commit}/"
    assert client.head(at + WEIGHTS[view]).status_code == 200
    assert client.get(f"/{view}/api/models/tiny/a/tree/{commit}").status_code == 200
    assert client.get(f"/{view}/tiny/a/resolve/r1/{WEIGHTS[view]}").status_code == 307
    for one in client.get(f"/{view}/api/models/tiny/a/tree/{commit}").json():
        if one["type"] == "file" and not one["path"].endswith(".safetensors"):
            assert client.get(at + quote(one["path"])).status_code == 200
    assert client.get(at + "none.safetensors").status_code == 404
    assert used(library, "tiny/a@1") == {}
    for part in ("bytes=0-9", "bytes=10-19", "bytes=20-"):
        assert client.get(at + WEIGHTS[view], headers={"Range": part}).status_code == 206
    assert used(library, "tiny/a@1") == {"hub": 1}
    assert client.get(at + WEIGHTS[view], headers=library.headers("admin")).status_code == 200
    assert used(library, "tiny/a@1") == {"hub": 2}
    assert used(library, "tiny/a@2") == used(library, "tiny/a/x@1") == {}


def test_a_real_client_of_the_hub(shelf_service: tuple[Library, httpx.Client], tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    library, client = shelf_service
    endpoint = str(client.base_url).rstrip("/") + "/hf-lora"
    token = library.secrets["reader"]
    for turn in ("first", "cached"):
        del turn
        hub.snapshot_download("tiny/a.x", endpoint=endpoint, token=token, cache_dir=tmp_path)
    assert used(library, "tiny/a/x@1") == {"hub": 1}
