"""What is materialised, over HTTP: the same answers as before, from the store, whatever the replica computes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest

from registry.app import service_app
from registry.client.remote import RemoteRegistry
from registry.errors import IntegrityError
from registry.folders.staging import FetchCache
from registry.schemas import Options
from registry.schemas.protocol import API, cursor_to
from registry.services import jobs
from registry.services.artifacts import opened as handing_out
from registry.services.artifacts.commits import Kept
from registry.services.jobs import Runner, perform
from registry.services.local import LocalRegistry
from registry.tensors.artifacts import plan as plans
from tests.kit import add_tokenizer, plain_base, write_chain
from tests.kit.library import assert_problem
from tests.kit.library import running as serving
from tests.kit.places import open_place

OTHER = "0123456789abcdef"  # the arithmetic of another machine
MERGED = {"ref": "net/one/two", "kind": "merged"}


def fill(registry: LocalRegistry, tmp_path: Path) -> None:
    """net, net/one@1 (the folder chain/1), net/one/two@1 (chain/2)."""
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (600, 512)}, shards=2)
    add_tokenizer(base.folder)
    registry.add_base("net", base.folder)
    folders = write_chain(tmp_path / "chain", base, 2, ["b"])
    registry.publish(folders[0], "net/one")
    registry.publish(folders[1], "net/one/two")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    """With `fill`."""
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as opened:
        fill(opened, tmp_path)
        yield opened


@pytest.fixture
def client(registry: LocalRegistry) -> Iterator[httpx.Client]:
    app = service_app(registry, anonymous="open")
    with serving(app) as address, httpx.Client(base_url=address + API, timeout=60) as opened:
        yield opened


def plan_of(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/artifacts", params=MERGED)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def address_of(plan: dict[str, Any], path: str) -> str:
    return f"/artifacts/{plan['rendering'].removeprefix('sha256:')}/{path}"


def bytes_of(client: httpx.Client, plan: dict[str, Any]) -> dict[str, bytes]:
    found = {}
    for file in plan["files"]:
        answer = client.get(address_of(plan, file["path"]), params=MERGED)
        assert answer.status_code == 200, answer.text
        assert answer.headers["etag"] == f'"{file["etag"]}"'
        found[file["path"]] = answer.content
    return found


def without_digests(plan: dict[str, Any]) -> dict[str, Any]:
    return {**plan, "files": [{**file, "digest": None} for file in plan["files"]]}


def refused(*given: object) -> NoReturn:
    raise AssertionError(f"nothing is to be computed: {given}")


def test_it_is_copied_and_nothing_else_changes(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_of(client)
    computed = bytes_of(client, before)
    made = client.post("/materialisations", json=MERGED)
    assert made.status_code == 201, made.text
    assert client.post("/materialisations", json=MERGED).status_code == 200
    monkeypatch.setattr(handing_out, "build_artifact", refused)
    after = plan_of(client)
    assert without_digests(after) == without_digests(before)
    assert all(file["digest"] for file in after["files"])
    assert bytes_of(client, after) == computed
    path, data = max(computed.items(), key=lambda one: len(one[1]))
    address = address_of(after, path)
    head = client.head(address, params=MERGED)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(data)))
    part = client.get(address, params=MERGED, headers={"Range": "bytes=1000-300000"})
    assert (part.status_code, part.content) == (206, data[1000:300_001])
    assert client.get(address, params=MERGED, headers={"If-None-Match": head.headers["etag"]}).status_code == 304
    assert_problem(client.get(address_of(after, "nothing"), params=MERGED), 404, "not_found")


def test_what_other_arithmetic_made_is_what_every_replica_says(
    client: httpx.Client, registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = plan_of(client)
    computed = bytes_of(client, ours)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(plans, "fingerprint", lambda: OTHER)
        made = registry.materialise(**MERGED).materialisation  # type: ignore[arg-type]
    theirs = plan_of(client)
    assert (theirs["numerics"], theirs["rendering"]) == (OTHER, made.rendering)
    assert {file["etag"] for file in theirs["files"]}.isdisjoint(file["etag"] for file in ours["files"])
    assert bytes_of(client, theirs) == computed
    assert bytes_of(client, ours) == computed  # who began with what is computed here goes on with it
    unknown = {**ours, "rendering": "sha256:" + "0" * 64}
    assert_problem(client.get(address_of(unknown, ours["files"][0]["path"]), params=MERGED), 503, "numerics")
    registry.drop_materialisation("net/one/two")
    assert plan_of(client) == ours
    gone = client.get(address_of(theirs, ours["files"][0]["path"]), params=MERGED)
    assert_problem(gone, 503, "numerics")


def test_lists_are_pages_and_drops_say_what_is_gone(client: httpx.Client) -> None:
    for ref in ("net/one/two", "net/one"):
        for kind in ("merged", "lora"):
            assert client.post("/materialisations", json={"ref": ref, "kind": kind}).status_code == 201
    every, cursor = [], None
    while True:
        given = {"limit": "1"} if cursor is None else {"limit": "1", "cursor": cursor}
        page = client.get("/materialisations", params=given).json()
        every += page["items"]
        cursor = page["next"]
        if cursor is None:
            break
    assert [one["reference"] for one in every] == ["net/one@1"] * 2 + ["net/one/two@1"] * 2
    assert every == client.get("/materialisations").json()["items"]
    dropped = client.delete("/materialisations", params={"which": "net/one"}).json()
    assert dropped == [one for one in every if one["reference"] == "net/one@1"]
    assert_problem(client.delete("/materialisations", params={"which": dropped[0]["id"]}), 404, "not_found")


def test_a_list_goes_on_where_its_last_item_is_gone(client: httpx.Client) -> None:
    for ref in ("net/one", "net/one/two"):
        for kind in ("merged", "lora"):
            client.post("/materialisations", json={"ref": ref, "kind": kind}).raise_for_status()
    every = client.get("/materialisations").json()["items"]
    for count in (1, 2):
        page = client.get("/materialisations", params={"limit": count}).json()
        last = page["items"][-1]
        client.delete("/materialisations", params={"which": last["id"]}).raise_for_status()
        answer = client.get("/materialisations", params={"cursor": page["next"]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["items"] == every[every.index(last) + 1 :]


def test_a_cursor_that_no_page_gave_is_refused(client: httpx.Client) -> None:
    for key in (
        "mat_5f2c9a7d1e40",
        ["net/one@1", "2026-01-02T03:04:05+00:00"],
        ["net/one", "2026-01-02T03:04:05+00:00", "mat_1"],
        ["net one@1", "2026-01-02T03:04:05+00:00", "mat_1"],
        ["net/one@1", "yesterday", "mat_1"],
        ["net/one@1", "0001-01-01T00:00:00+14:00", "mat_1"],
    ):
        assert_problem(client.get("/materialisations", params={"cursor": cursor_to(key)}), 422, "usage")


def test_what_can_not_be_materialised_is_said_at_once(client: httpx.Client) -> None:
    cases: list[tuple[dict[str, Any], int, str | None]] = [
        ({"ref": "net/one", "kind": "published"}, 400, "usage"),
        ({"ref": "net", "kind": "merged"}, 400, "usage"),
        ({"ref": "net/one", "expires_in": 10**12}, 400, "usage"),
        ({"ref": "net/three"}, 404, "not_found"),
        ({"ref": "net/one", "expires_in": 0}, 422, None),
        ({"ref": "net/one", "kind": "both"}, 422, None),
    ]
    for asked, status, code in cases:
        answer = client.post("/materialisations", json=asked)
        assert_problem(answer, status, code or answer.json()["code"])
    assert client.get("/materialisations").json()["items"] == []


@pytest.mark.slow
def test_it_goes_on_where_a_replica_ended(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Asked for by a name that moves meanwhile: what is made is what it named then."""
    begun, over = threading.Event(), threading.Event()

    def slow(deployment: Any, job: Any, request: Any, progress: Any) -> Any:
        begun.set()
        while not over.wait(0.005):
            progress.advance(0)
        return perform(deployment, job, request, progress)

    monkeypatch.setattr(jobs, "perform", slow)
    monkeypatch.setattr(Runner.answer, "__defaults__", (0.0,))
    with serving(service_app(registry, anonymous="open")) as address:
        answer = httpx.post(address + API + "/materialisations", json=MERGED)
        assert answer.status_code == 202
        told = answer.json()
        assert answer.headers["location"] == f"{API}/operations/{told['id']}"
        assert begun.wait(120)
    assert registry.operation(told["id"]).state == "pending"  # that replica ended
    registry.publish(tmp_path / "chain" / "1", "net/one/two")
    over.set()
    with serving(service_app(registry, anonymous="open")) as address, closing(_remote(address, tmp_path)) as remote:
        answer = httpx.get(address + answer.headers["location"])
        while answer.json()["state"] not in {"done", "failed"}:
            answer = httpx.get(address + f"{API}/operations/{told['id']}")
        made = answer.json()["result"]["materialised"]["materialisation"]
        assert (made["reference"], made["kind"]) == ("net/one/two@1", "merged")
        assert [one.id for one in remote.materialisations()] == [made["id"]]
        assert remote.materialise("net/one/two").materialisation.reference == "net/one/two@2"


def _remote(address: str, folder: Path, secret: str | None = None) -> RemoteRegistry:
    return RemoteRegistry(address, secret, cache=FetchCache(folder / "remote"))


@pytest.mark.slow_on("team")
@pytest.mark.parametrize("kind", ["team"])
def test_clients_are_sent_to_the_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with open_place(request, tmp_path / "registry", kind=kind) as place:
        fill(place.registry, tmp_path)
        secret = place.registry.create_token("writer").secret
        app = service_app(place.registry)
        headers = {"Authorization": f"Bearer {secret}"}
        with (
            serving(app) as address,
            httpx.Client(base_url=address + API, headers=headers, timeout=60) as client,
            closing(_remote(address, tmp_path, secret)) as remote,
        ):
            before = plan_of(client)
            computed = bytes_of(client, before)
            assert remote.materialise(**MERGED).created  # type: ignore[arg-type]
            for file in before["files"]:
                where = address_of(before, file["path"])
                answer = client.get(where, params=MERGED)
                assert (answer.status_code, answer.headers["etag"]) == (307, f'"{file["etag"]}"')
                assert httpx.get(answer.headers["location"]).content == computed[file["path"]]  # without the token
                part = httpx.get(answer.headers["location"], headers={"Range": "bytes=1-4"})
                assert part.content == computed[file["path"]][1:5]
                head = client.head(where, params=MERGED)
                assert (head.status_code, head.headers["content-length"]) == (200, str(file["size"]))
            _see_hub(address, headers, computed)
            fetched = remote.fetch("net/one/two", tmp_path / "out", kind="merged")
            assert fetched.rendering == before["rendering"]
            assert {path: (tmp_path / "out" / path).read_bytes() for path in computed} == computed
            found = handing_out.ask(place.deployment, "net/one/two", Options(kind="merged")).materialised
            assert isinstance(found, Kept)
            stored = max(found.files, key=lambda one: one.size)
            _flip(place.file(stored.key))
            with pytest.raises(IntegrityError, match="fsck"):
                remote.fetch("net/one/two", tmp_path / "again", kind="merged")
            assert not (tmp_path / "again").exists()


def _see_hub(address: str, headers: dict[str, str], computed: dict[str, bytes]) -> None:
    """The merged view sends a GET on to the store, and answers a HEAD itself."""
    path, data = max(computed.items(), key=lambda one: len(one[1]))
    main = httpx.head(f"{address}/hf/net/one.two/resolve/main/{path}", headers=headers)
    assert main.status_code == 307
    where = address + main.headers["location"]
    head = httpx.head(where, headers=headers)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(data)))
    sent = httpx.get(where, headers=headers)
    assert (sent.status_code, sent.headers["x-repo-commit"]) == (302, head.headers["x-repo-commit"])
    assert sent.headers["etag"] == head.headers["etag"]
    assert httpx.get(sent.headers["location"]).content == data


def _flip(file: Path) -> None:
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
