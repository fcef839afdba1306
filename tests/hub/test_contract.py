"""Each route of the views answers as the Hub does (`docs/hub.md`)."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from registry.app import service_app
from registry.hub import files
from registry.schemas.protocol import VIEWS
from tests.hub.conftest import WEIGHTS, assert_missing, sha
from tests.kit import plain_base, write_chain
from tests.kit.library import Library, Lines, log, running
from tests.kit.shelf import Shelf

__all__ = ["log"]

COMMIT = re.compile("[0-9a-f]{40}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.mark.parametrize("view", VIEWS)
def test_model_info(reader: httpx.Client, view: str) -> None:
    info = reader.get(f"/{view}/api/models/tiny/a.x").json()
    assert (info["id"], info["modelId"], info["private"], info["gated"]) == ("tiny/a.x", "tiny/a.x", False, False)
    assert COMMIT.fullmatch(info["sha"])
    assert TIME.fullmatch(info["lastModified"])
    assert TIME.fullmatch(info["createdAt"])
    assert {"base_model:tiny/_", "tag:prod"} <= set(info["tags"])
    assert {"rfilename": WEIGHTS[view]} in info["siblings"]
    assert info.get("library_name") == (None if view == "hf" else "peft")
    for revision in ("main", "r1", "prod", "v1.0", info["sha"]):
        assert reader.get(f"/{view}/api/models/tiny/a.x/revision/{revision}").json() == info
    detailed = reader.get(f"/{view}/api/models/tiny/a.x?blobs=True&securityStatus=true&expand=x&expand=y").json()
    for sibling in detailed["siblings"]:
        assert {"size", "blobId"} <= set(sibling)
        assert set(sibling.get("lfs", {})) in (set(), {"sha256", "size", "pointerSize"})


@pytest.mark.parametrize("view", VIEWS)
def test_head_is_the_newest_commit(reader: httpx.Client, view: str) -> None:
    """What clients in JavaScript ask for where no revision is given."""
    for repo in ("tiny/a", "tiny/_"):
        for address in ("revision/{}", "tree/{}", "commits/{}"):
            by_main, by_head = (reader.get(f"/{view}/api/models/{repo}/{address.format(n)}") for n in ("main", "HEAD"))
            assert by_head.status_code == 200
            assert by_head.json() == by_main.json()
        answer = reader.get(f"/{view}/{repo}/resolve/HEAD/README.md" if repo == "tiny/a" else f"/{view}/{repo}")
        assert answer.headers.get("x-repo-commit") == (sha(reader, view, repo) if repo == "tiny/a" else None)
    for other in ("head", "refs%2Fheads%2Fmain", "HEAD~1"):
        assert_missing(reader.get(f"/{view}/api/models/tiny/a/revision/{other}"), "RevisionNotFound")


@pytest.mark.parametrize("view", VIEWS)
def test_raw_files_are_as_git_keeps_them(
    service: str, library: Library, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents are themselves; weights whose hash is known are the pointer of LFS, and others themselves, too."""
    headers = library.headers("reader")
    with httpx.Client(base_url=service, headers=headers, timeout=120, follow_redirects=True) as reader:
        for repo in ("tiny/a.x", "tiny/_"):
            commit = sha(reader, view, repo)
            for entry in reader.get(f"/{view}/api/models/{repo}/tree/{commit}?recursive=true").json():
                if entry["type"] != "file":
                    continue
                name = quote(entry["path"])
                data = reader.get(f"/{view}/{repo}/resolve/{commit}/{name}").content
                pointed = "lfs" in entry and name.endswith(".safetensors")
                lines = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
                wanted = lines.format(hashlib.sha256(data).hexdigest(), len(data)).encode() if pointed else data
                for revision in ("main", "HEAD", commit):
                    whole = reader.get(f"/{view}/{repo}/raw/{revision}/{name}")
                    assert (whole.status_code, whole.content) == (200, wanted)
                    head = reader.head(f"/{view}/{repo}/raw/{revision}/{name}")
                    assert (head.status_code, head.content) == (200, b"")
                    assert head.history == []
                    for header in ("etag", "content-length", "x-repo-commit"):
                        assert head.headers[header] == whole.headers[header]
                if wanted:
                    part = reader.get(f"/{view}/{repo}/raw/main/{name}", headers={"Range": "bytes=0-0"})
                    assert (part.status_code, part.content) == (206, wanted[:1])
                    assert part.headers["content-range"] == f"bytes 0-0/{len(wanted)}"
        main = sha(reader, view, "tiny/a.x")
        for missing in ("none.json", "", "deep", "..%2Fx"):
            answer = reader.get(f"/{view}/tiny/a.x/raw/main/{missing}")
            assert_missing(answer, "EntryNotFound", commit=main)
        assert_missing(reader.get(f"/{view}/tiny/a.x/raw/none/config.json"), "RevisionNotFound")
        assert_missing(reader.get(f"/{view}/tiny/none/raw/main/config.json"), "RepoNotFound")
        assert_missing(httpx.get(f"{reader.base_url}/{view}/tiny/a.x/raw/main/README.md"), "RepoNotFound", status=401)
        if view == "hf":
            base = sha(reader, view, "tiny/_")
            for method in ("GET", "HEAD"):
                answer = reader.request(method, "/hf/tiny/_/raw/main/adapter_config.json")
                assert_missing(answer, "EntryNotFound", commit=base)
        monkeypatch.setattr(files, "_MOST_IN_GIT", 10)  # bytes
        assert reader.get(f"/{view}/tiny/_/raw/main/extra/words.txt").content == b"words"
        assert reader.get(f"/{view}/tiny/_/raw/main/config.json").text.startswith("version https://git-lfs")


def test_names_mean_revisions_and_commits_differ_between_views(reader: httpx.Client) -> None:
    found = {view: [sha(reader, view, "tiny/a", name) for name in ("r1", "r2", "prod", "main")] for view in VIEWS}
    for first, second, prod, main in found.values():
        assert (prod, main) == (first, second)
        assert first != second
    assert len({commit for commits in found.values() for commit in commits}) == 6
    bases = {sha(reader, view, "tiny/_") for view in VIEWS}
    assert len(bases) == 1


@pytest.mark.parametrize("view", VIEWS)
def test_tree_lists_sizes_and_hashes_that_are_true(reader: httpx.Client, view: str) -> None:
    for repo in ("tiny/a.x", "tiny/_"):
        commit = sha(reader, view, repo)
        entries = reader.get(f"/{view}/api/models/{repo}/tree/{commit}?recursive=true&expand=false").json()
        assert entries == reader.get(f"/{view}/api/models/{repo}/tree/main?recursive=True&expand=False").json()
        files = [entry for entry in entries if entry["type"] == "file"]
        assert len(files) > 1
        for entry in files:
            assert "xetHash" not in entry
            answer = reader.get(f"/{view}/{repo}/resolve/{commit}/{quote(entry['path'])}")
            assert answer.status_code == 200
            assert len(answer.content) == entry["size"] == int(answer.headers["content-length"])
            if "lfs" in entry:
                assert set(entry["lfs"]) == {"oid", "size", "pointerSize"}
                assert entry["lfs"]["oid"] == hashlib.sha256(answer.content).hexdigest()
            elif entry["path"].endswith(".json"):
                head = b"blob %d\0" % len(answer.content)
                assert entry["oid"] == hashlib.sha1(head + answer.content).hexdigest()
        info = reader.get(f"/{view}/api/models/{repo}").json()
        assert [one["rfilename"] for one in info["siblings"]] == [entry["path"] for entry in files]


def test_tree_of_folders(reader: httpx.Client) -> None:
    def listed(path: str, **query: str) -> list[tuple[str, str]]:
        answer = reader.get(f"/hf/api/models/tiny/_/tree/main{path}", params=query)
        return [(entry["type"], entry["path"]) for entry in answer.json()]

    top = listed("")
    assert ("directory", "extra") in top
    assert all("/" not in path for _, path in top)
    assert listed("/extra") == [("directory", "extra/deep"), ("file", "extra/words.txt")]
    assert listed("/extra%2Fdeep") == [("file", "extra/deep/notes.md")]
    assert ("file", "extra/deep/notes.md") in listed("", recursive="True")
    commit = sha(reader, "hf", "tiny/_")
    for missing in ("additional_chat_templates", "config.json", "extra/dee"):
        answer = reader.get(f"/hf/api/models/tiny/_/tree/main/{missing}?recursive=false&expand=false")
        assert_missing(answer, "EntryNotFound", commit=commit)


@pytest.mark.parametrize(
    "route", ["/hf/api/models/tiny/_/tree/main?recursive=true", "/hf-lora/api/models/tiny/a/commits/main"]
)
def test_lists_come_in_pages_at_the_address_that_was_asked(reader: httpx.Client, service: str, route: str) -> None:
    whole = reader.get(route).json()
    assert len(whole) > 1
    port = service.rpartition(":")[2]
    asked = f"http://localhost:{port}{route}{'&' if '?' in route else '?'}limit=1"
    gathered: list[Any] = []
    while asked:
        answer = httpx.get(asked, headers=reader.headers)
        gathered += answer.json()
        assert len(answer.json()) == 1
        assert len(gathered) <= len(whole)
        link = re.fullmatch(r'<(.*)>; rel="next"', answer.headers.get("link", ""))
        asked = link[1] if link else ""
        assert not asked or asked.startswith(f"http://localhost:{port}{route.partition('main')[0]}")
    assert gathered == whole
    assert reader.get(route, params={"limit": "0"}).status_code == 400


@pytest.mark.parametrize("name", ["main", "prod", "r1"])
def test_the_pages_of_a_tree_are_of_one_revision(tmp_path: Path, name: str) -> None:
    """The name may mean another revision before the next page is asked for, whose files lie otherwise."""
    shelf = Shelf(tmp_path)
    base = shelf.base("tiny", plain_base)
    first, second = write_chain(tmp_path / "chain", base, 2, list(base.modules)[:1])
    (second / "zz.txt").write_text("new")
    shelf.registry.publish(first, "tiny/a", tags=["prod"])
    with (
        running(service_app(shelf.registry, "open")) as address,
        httpx.Client(base_url=f"{address}/hf-published/api/models/tiny/a") as client,
    ):
        whole = client.get(f"/tree/{name}").json()
        answer = client.get(f"/tree/{name}/?limit=1")
        commit = client.get(f"/revision/{name}").json()["sha"]
        shelf.registry.publish(second, "tiny/a", tags=["prod"])
        gathered = answer.json()
        while "next" in answer.links:
            assert f"/tree/{commit}/?limit=1&cursor=" in answer.links["next"]["url"]
            answer = client.get(answer.links["next"]["url"])
            gathered += answer.json()
    shelf.close()
    assert len(whole) > 1
    assert gathered == whole


def test_a_strange_cursor_is_refused(reader: httpx.Client) -> None:
    assert reader.get("/hf/api/models/tiny/a/commits/main?cursor=x").status_code == 400


@pytest.mark.parametrize("view", VIEWS)
def test_refs(reader: httpx.Client, view: str) -> None:
    told = reader.get(f"/{view}/api/models/tiny/a/refs").json()
    assert set(told) == {"branches", "converts", "tags"}
    assert told["branches"] == [{"name": "main", "ref": "refs/heads/main", "targetCommit": sha(reader, view, "tiny/a")}]
    assert {one["name"] for one in told["tags"]} == {"r1", "r2", "prod"}
    for one in told["tags"]:
        assert one["ref"] == f"refs/tags/{one['name']}"
        assert one["targetCommit"] == sha(reader, view, "tiny/a", one["name"])
    base = reader.get(f"/{view}/api/models/tiny/_/refs?include_prs=1").json()
    assert base["branches"][0]["targetCommit"] == sha(reader, view, "tiny/_")
    assert (base["tags"], base["pullRequests"]) == ([], [])


@pytest.mark.parametrize("sent", ["form", "json"])
def test_paths_info(reader: httpx.Client, sent: str) -> None:
    paths = ["config.json", "extra", "extra/words.txt", "nothing", "adapter_config.json"]
    asked: dict[str, Any] = {"paths": paths, "expand": "False"}
    address = "/hf/api/models/tiny/_/paths-info/main"
    answer = reader.post(address, data=asked) if sent == "form" else reader.post(address, json=asked)
    found = {entry["path"]: entry for entry in answer.json()}
    assert list(found) == paths[:3]
    whole = reader.get("/hf/api/models/tiny/_/tree/main?recursive=true").json()
    assert all(entry in whole for entry in found.values())
    one = reader.post(address, data={"paths": "config.json"}).json()
    assert [entry["path"] for entry in one] == ["config.json"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"paths": 1}', b'{"paths": [1]}', b'{"other": []}', b'{"paths": [], "paths": []}', b"[" * 9999],
)
def test_a_malformed_question_for_paths(reader: httpx.Client, body: bytes) -> None:
    answer = reader.post(
        "/hf/api/models/tiny/_/paths-info/main", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 413}
    assert answer.headers["x-error-message"]


def test_history(reader: httpx.Client) -> None:
    commits = reader.get("/hf-published/api/models/tiny/a/commits/main").json()
    assert [one["id"] for one in commits] == [sha(reader, "hf-published", "tiny/a", name) for name in ("r2", "r1")]
    assert [one["title"] for one in commits] == ["r2", "first"]
    assert commits[1]["message"] == "more of it"
    assert all(TIME.fullmatch(one["date"]) and set(one["authors"][0]) == {"user"} for one in commits)
    assert reader.get("/hf-published/api/models/tiny/a/commits/prod").json() == commits[1:]
    for name, total in (("tiny/a/commits/main", 2), ("tiny/a/commits/prod", 1), ("tiny/_/commits/main", 1)):
        answer = reader.get(f"/hf-published/api/models/{name}?limit=1")
        assert answer.headers["x-total-count"] == str(total)
    base = reader.get("/hf/api/models/tiny/_/commits/main").json()
    assert [one["id"] for one in base] == [sha(reader, "hf", "tiny/_")]


@pytest.mark.parametrize("view", VIEWS)
def test_a_name_leads_to_its_commit(reader: httpx.Client, view: str) -> None:
    for name in ("main", "r1", "prod"):
        commit = sha(reader, view, "tiny/a", name)
        for method in ("HEAD", "GET"):
            answer = reader.request(method, f"/{view}/tiny/a/resolve/{name}/{WEIGHTS[view]}")
            assert answer.status_code == 307
            assert answer.headers["location"] == f"/{view}/tiny/a/resolve/{commit}/{WEIGHTS[view]}"
            assert answer.headers["x-repo-commit"] == commit
            assert answer.content == b""
            gone = reader.request(method, f"/{view}/tiny/a/resolve/{name}/nothing.bin")
            assert_missing(gone, "EntryNotFound", commit=commit)


def test_odd_names_are_led_to_as_well(reader: httpx.Client) -> None:
    answer = reader.get("/hf/tiny/_/resolve/main/my%20file%2B%23%2520%C3%A9.txt")
    assert answer.headers["location"].endswith("/my%20file%2B%23%2520%C3%A9.txt")
    assert reader.get(answer.headers["location"]).content == b"odd"
    assert reader.get("/hf/tiny/_/resolve/main/extra/deep/notes.md", follow_redirects=True).content == b"notes"


@pytest.mark.parametrize("view", VIEWS)
def test_heads_say_all_of_a_file(reader: httpx.Client, view: str) -> None:
    commit = sha(reader, view, "tiny/a.x")
    address = f"/{view}/tiny/a.x/resolve/{commit}/{WEIGHTS[view]}"
    head, whole = reader.head(address), reader.get(address)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(whole.content)
    for answer in (head, whole):
        assert answer.headers["x-repo-commit"] == commit
        assert re.fullmatch('"[0-9a-f]{64}"', answer.headers["etag"])
        assert not {"x-xet-hash", "content-encoding", "transfer-encoding"} & set(answer.headers)
    assert reader.get(address, headers={"If-None-Match": head.headers["etag"]}).status_code == 304
    empty = reader.head(f"/{view}/tiny/_/resolve/main/empty.txt", follow_redirects=True)
    assert (empty.status_code, empty.headers["content-length"]) == (200, "0")


def test_models_never_show_the_config_of_an_adapter(reader: httpx.Client, library: Library) -> None:
    with library.registry.artifact("tiny/a/x", kind="merged") as artifact:
        assert "adapter_config.json" in artifact.files  # the base has one: it is there to be hidden
    for view, repo in (("hf", "tiny/a"), ("hf", "tiny/a.x"), *((view, "tiny/_") for view in VIEWS)):
        commit = sha(reader, view, repo)
        for name in ("main", commit):
            for method in ("HEAD", "GET"):
                answer = reader.request(method, f"/{view}/{repo}/resolve/{name}/adapter_config.json")
                assert_missing(answer, "EntryNotFound", commit=commit)
        listed = json.dumps(
            [
                reader.get(f"/{view}/api/models/{repo}").json(),
                reader.get(f"/{view}/api/models/{repo}/tree/main?recursive=true").json(),
                reader.post(f"/{view}/api/models/{repo}/paths-info/main", data={"paths": "adapter_config.json"}).json(),
            ]
        )
        assert "adapter_config" not in listed


def test_a_composed_adapter_names_its_base_at_the_same_endpoint(reader: httpx.Client) -> None:
    config = reader.get("/hf-lora/tiny/a.x/resolve/main/adapter_config.json", follow_redirects=True).json()
    assert config["base_model_name_or_path"] == "tiny/_"
    assert config["revision"] == sha(reader, "hf-lora", "tiny/_", config["revision"])
    head = reader.head(f"/hf-lora/tiny/_/resolve/{config['revision']}/model.safetensors")
    assert (head.status_code, head.headers["x-repo-commit"]) == (200, config["revision"])


def test_what_comes_after_an_ancestor_names_the_merged_model_below(reader: httpx.Client, library: Library) -> None:
    with library.registry.artifact("tiny/a/x", kind="lora", since="tiny/a@1") as artifact:
        config = json.loads(artifact.files["adapter_config.json"].read())
    assert config["base_model_name_or_path"] == "tiny/a"
    assert config["revision"] == sha(reader, "hf", "tiny/a", "r1")


def test_a_base_answers_by_the_names_of_its_adapters_where_these_are_asked_for(reader: httpx.Client) -> None:
    base = sha(reader, "hf-lora", "tiny/_")
    for name in ("r1", "prod", "v1.0", sha(reader, "hf-lora", "tiny/a.x"), sha(reader, "hf-lora", "tiny/a", "r1")):
        assert sha(reader, "hf-lora", "tiny/_", name) == base
        moved = reader.head(f"/hf-lora/tiny/_/resolve/{name}/config.json", follow_redirects=True)
        assert (moved.status_code, moved.headers["x-repo-commit"]) == (200, base)
    for view, name in (("hf", "r1"), ("hf-published", "prod"), ("hf-lora", "r9"), ("hf-lora", "0" * 40),
                       ("hf-lora", sha(reader, "hf", "tiny/a.x")), ("hf-lora", "feature%2Fx")):  # fmt: skip
        assert_missing(reader.get(f"/{view}/api/models/tiny/_/revision/{name}"), "RevisionNotFound")


def test_what_is_asked_for_once_by_every_client(service: str) -> None:
    answer = httpx.get(f"{service}/hf/api/agent-harnesses")
    assert (answer.status_code, answer.json()) == (200, {"standardEnvVars": [], "harnesses": {}})


@pytest.mark.parametrize("view", VIEWS)
def test_a_head_is_answered_as_a_get(reader: httpx.Client, log: Lines, view: str) -> None:
    commit = sha(reader, view, "tiny/a")
    for path in (
        "/api/agent-harnesses",
        "/api/models/tiny/a",
        f"/api/models/tiny/a/revision/{commit}",
        "/api/models/tiny/a/tree/main?limit=1",
        "/api/models/tiny/_/tree/main/extra",
        "/api/models/tiny/a/refs",
        "/api/models/tiny/a/commits/main?limit=1",
        "/api/models/tiny/a/commits/nothing",
        "/api/models/tiny/nothing",
        "/tiny/a/resolve/main/nothing",
        f"/tiny/a/resolve/{commit}/{WEIGHTS[view]}",
    ):
        whole, head = reader.get(f"/{view}{path}"), reader.head(f"/{view}{path}")
        own = {"date", "x-request-id"}
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert {k: v for k, v in head.headers.items() if k not in own} == {
            k: v for k, v in whole.headers.items() if k not in own
        }
        assert log.of_request(head.headers["x-request-id"])["sent"] == 0
