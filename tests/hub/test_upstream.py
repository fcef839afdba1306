"""A registry whose views ask another Hub: what clients get of it, what that Hub learns, and what goes wrong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from registry.app import service_app
from registry.hub.upstream import METADATA, Upstream
from tests.hub.conftest import assert_missing, fill
from tests.kit.library import Library, running, with_tokens
from tests.kit.other_hub import ElsewhereStore, OtherHub


@pytest.fixture(scope="module")
def store() -> Iterator[ElsewhereStore]:
    with ElsewhereStore() as found:
        yield found


@pytest.fixture(scope="module")
def other(store: ElsewhereStore) -> Iterator[OtherHub]:
    """It has ``Some-Org/Net``, of whose files one lies elsewhere, ``gpt-two``, and the data set ``Some-Org/lines``."""
    with OtherHub(store) as hub:
        hub.add(
            "models/Some-Org/Net", {"config.json": b"{}", "sub/a b.txt": b"words", "model.safetensors": b"w" * 5000}
        )
        hub.add("models/gpt-two", {"config.json": b"{}"})
        hub.add("datasets/Some-Org/lines", {"README.md": b"# lines", "data/train.jsonl": b'{"text": "a"}\n' * 4})
        for name in ("tiny/secret", "Tiny/secret", "given/Name", "tiny"):
            hub.add(f"models/{name}", {"config.json": b"stranger"})
        yield hub


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    shelf = fill(tmp_path_factory.mktemp("library"))
    shelf.registry.also_known_as("tiny", "given/Name")
    yield with_tokens(shelf)
    shelf.close()


@pytest.fixture(scope="module")
def service(library: Library, other: OtherHub) -> Iterator[str]:
    with running(service_app(library.registry, upstream=other.url)) as address:
        yield address


@pytest.fixture(autouse=True)
def nothing_seen(other: OtherHub, store: ElsewhereStore) -> None:
    for hub in (other, store):
        hub.seen.clear()
        hub.headers.clear()


@pytest.fixture
def client(service: str, library: Library) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{service}/hf", headers=library.headers("reader"), timeout=120) as found:
        yield found


def digests(folder: str) -> dict[str, str]:
    root = Path(folder)
    files = (file for file in root.rglob("*") if file.is_file())
    return {file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize(
    ("kind", "repo"), [("model", "Some-Org/Net"), ("model", "gpt-two"), ("dataset", "Some-Org/lines")]
)
def test_clients_get_what_they_get_there(
    service: str, library: Library, other: OtherHub, store: ElsewhereStore, tmp_path: Path, kind: str, repo: str
) -> None:
    """By the Hub's own client, in a view and at that Hub itself: the same files, commits and errors."""
    token = library.secrets["reader"]
    ours = _seen(f"{service}/hf-lora", token, tmp_path / "here", kind, repo)
    theirs = _seen(other.url, False, tmp_path / "there", kind, repo)
    assert ours == theirs
    assert len(ours["tree"]) > other.page  # each page was asked of the service
    for hub in (other, store):
        _assert_nothing_told(hub, token)


def _seen(endpoint: str, token: str | bool, cache: Path, kind: str, repo: str) -> dict[str, Any]:
    """What a client gets of a repo."""
    api = HfApi(endpoint=endpoint, token=token)
    folder = api.snapshot_download(repo, repo_type=kind, cache_dir=cache)
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(repo, "none.txt", repo_type=kind, cache_dir=cache)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(repo, "README.md", revision="none", repo_type=kind, cache_dir=cache)
    info = api.repo_info(repo, repo_type=kind, files_metadata=True)
    return {
        "files": digests(folder),
        "commit": (Path(folder).name, info.sha),
        "info": (info.id, getattr(info, "siblings", None)),
        "tree": list(api.list_repo_tree(repo, repo_type=kind, recursive=True)),
        "refs": api.list_repo_refs(repo, repo_type=kind),
        "paths": api.get_paths_info(repo, ["README.md", "config.json", "none"], repo_type=kind),
    }


def _assert_nothing_told(hub: OtherHub | ElsewhereStore, token: str) -> None:
    for headers in hub.headers:
        assert token not in str(headers)
        assert "authorization" not in headers
        assert "cookie" not in headers or "hf_hub" in headers["user-agent"]  # clients keep some


def test_a_dataset_by_its_file_system(service: str, library: Library, other: OtherHub) -> None:
    """As the library `datasets` finds and reads files."""
    files = HfFileSystem(endpoint=f"{service}/hf", token=library.secrets["reader"], skip_instance_cache=True)
    assert files.glob("datasets/Some-Org/lines/data/*.jsonl") == ["datasets/Some-Org/lines/data/train.jsonl"]
    with files.open("datasets/Some-Org/lines/data/train.jsonl", "rb", block_size=10) as lines:
        lines.seek(14)
        assert lines.read(13) == b'{"text": "a"}'
    _assert_nothing_told(other, library.secrets["reader"])


def test_a_range_is_a_range(client: httpx.Client) -> None:
    part = client.get("/Some-Org/Net/resolve/main/sub%2Fa%20b.txt", headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"ord", "bytes 1-3/5")
    whole = client.get("/Some-Org/Net/resolve/main/config.json")
    assert (whole.content, whole.headers["content-type"]) == (b"{}", "application/octet-stream")
    assert whole.headers["content-disposition"] == "attachment"
    assert "set-cookie" not in whole.headers
    assert client.get("/Some-Org/Net/raw/main/config.json").content == b"{}"
    head = client.head("/Some-Org/Net/resolve/main/config.json")
    assert (head.status_code, head.headers["content-length"], head.headers["etag"]) == (200, "2", whole.headers["etag"])


OWN = ["tiny/secret", "Tiny/secret", "TINY/a.b", "tiny", "given/name", "tiny/a", "tiny/_", "given/Name"]


def test_names_of_ours_never_leave(service: str, library: Library, client: httpx.Client, other: OtherHub) -> None:
    """Whoever asks, for models and data sets; the other Hub has such repos, and is asked for others that nobody has."""
    hidden = library.registry.create_token("reader", scopes=("tiny/b",)).secret
    stranger = httpx.Client(base_url=f"{service}/hf", headers={"Authorization": f"Bearer {hidden}"})
    with stranger as scoped:
        for one in (client, scoped):
            for name in OWN:
                for address in (
                    f"/api/models/{name}", f"/api/models/{name}/tree/main", f"/{name}/resolve/main/config.json",
                    f"/{name}/raw/main/config.json",
                    f"/api/datasets/{name}", f"/datasets/{name}/resolve/main/config.json",
                ):  # fmt: skip
                    for method in ("GET", "HEAD"):
                        assert b"stranger" not in one.request(method, address).content
                one.post(f"/api/models/{name}/paths-info/main", json={"paths": ["config.json"]})
                one.post(f"/api/datasets/{name}/paths-info/main", json={"paths": ["config.json"]})
    nobodys = re.compile(
        r"[A-Z]+ /hub/(api/models/|api/datasets/|datasets/|)none-[0-9a-f]{32}/none(/[a-z-]+(/main.*)?)?"
    )
    assert [one for one in other.seen if nobodys.fullmatch(one) is None] == []
    assert len(set(other.seen)) > 1
    assert client.get("/api/models/given/Name").json()["id"] == "given/Name"


WRITES = [
    ("POST", "/api/models/Some-Org/Net/commit/main"), ("POST", "/api/models/Some-Org/Net/preupload/main"),
    ("POST", "/api/datasets/Some-Org/lines/commit/main"), ("PUT", "/api/models/Some-Org/Net/settings"),
    ("POST", "/api/repos/create"), ("DELETE", "/api/repos/delete"), ("POST", "/api/models/Some-Org/Net/tag/main"),
    ("DELETE", "/Some-Org/Net/resolve/main/config.json"), ("POST", "/api/models/Some-Org/Net/tree/main"),
]  # fmt: skip
ELSEWHERE = [
    "/api/datasets", "/api/spaces/a/b", "/api/whoami-v2", "/api/models/Some-Org/Net/xet-read-token/main",
    "/Some-Org/Net/resolve/main/..%2F..%2F..%2Fapi", "/Some-Org/Net/resolve/main/%2e%2e/x",
    "/Some-Org/Net/resolve/main/",
    "/Some-Org/%2e%2e/resolve/main/x", "/api/models/Some-Org%2FNet", "/api/models/Some-Org/Net/tree/main/a%0Ab",
    "/spaces/a/b/resolve/main/x", "/Some-Org/Net", "/api/models/Some-Org/N@t",
]  # fmt: skip


def test_nothing_else_is_asked(service: str, client: httpx.Client, other: OtherHub) -> None:
    for method, address in WRITES:
        client.request(method, address, json={})
    for address in ELSEWHERE:
        client.get(address)
    for headers in ({}, {"Authorization": "Bearer reg_stranger"}):
        assert httpx.get(f"{service}/hf/api/models/Some-Org/Net", headers=headers).status_code == 401
    assert other.seen == []


def test_what_it_refuses(service: str, library: Library, client: httpx.Client, other: OtherHub) -> None:
    token = library.secrets["reader"]
    api = HfApi(endpoint=f"{service}/hf", token=token)
    with pytest.raises(RepositoryNotFoundError, match="Neither this registry nor"):
        api.model_info("Some-Org/None")
    other.gated.add("models/Some-Org/Net")
    try:
        with pytest.raises(GatedRepoError):
            api.model_info("Some-Org/Net")
    finally:
        other.gated.clear()
    for status in (429, 500, 502):
        other.fails = status
        try:
            answer = client.get("/api/models/Some-Org/Net")
        finally:
            other.fails = None
        sentence = assert_missing(answer, None, status=503)
        assert other.host in sentence
        assert f"answers {status}" in sentence


@pytest.mark.parametrize("how", ["html", "next", "hub", "port", "circle", "large"])
def test_what_it_should_not_say(
    client: httpx.Client, other: OtherHub, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages for browsers, lists that go on elsewhere, redirects to where clients send tokens, and what has no end."""
    monkeypatch.setattr("registry.hub.upstream.METADATA", replace(METADATA, size=1000))
    monkeypatch.setattr(other, "odd", how)
    is_file = how in {"hub", "port", "circle"}
    address = "/Some-Org/Net/resolve/main/config.json" if is_file else "/api/models/Some-Org/Net/tree/main"
    assert other.host in assert_missing(client.get(address), None, status=503)


def test_a_body_that_breaks_off_is_not_whole(
    client: httpx.Client, other: OtherHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other, "odd", "cut")
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/Some-Org/Net/resolve/main/sub/a%20b.txt")


def test_where_there_is_none(library: Library) -> None:
    with (
        running(service_app(library.registry, upstream="http://127.0.0.1:9/hub")) as address,
        httpx.Client(base_url=f"{address}/hf", headers=library.headers("reader")) as client,
    ):
        for path in ("/api/models/Some-Org/Net", "/Some-Org/Net/resolve/main/x"):
            sentence = assert_missing(client.get(path), None, status=503)
            assert "127.0.0.1:9, which REGISTRY_UPSTREAM names, can't be reached" in sentence
        assert client.get("/api/models/tiny/a").status_code == 200


def test_registries_that_ask_one_another_end(library: Library) -> None:
    """One whose upstream is itself, without tokens."""
    app = service_app(library.registry, "read")
    with running(app) as address:
        app.state.upstream = Upstream(f"{address}/hf")
        api = HfApi(endpoint=f"{address}/hf", token=False)
        with pytest.raises(HfHubHTTPError, match="circle"):
            api.model_info("Some-Org/Net")
        assert api.model_info("tiny/a").id == "tiny/a"
