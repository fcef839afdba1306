"""Publishing over HTTP: checked first, then the bytes in parts, then visible; what broke off goes on."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select

from registry.app import service_app
from registry.catalogue.database.team_tables import JobRecord
from registry.progress import SILENT
from registry.schemas.protocol import API
from registry.services import jobs as running_work
from registry.services.intake import uploads
from registry.transfer.source import base_request
from tests.kit import Base, plain_base, write_adapter
from tests.kit.library import Library, assert_problem, fill, running, with_tokens
from tests.kit.sending import request_of


@dataclass(frozen=True)
class Desk:
    """A registry of its own and its clients."""

    library: Library
    url: str
    writer: httpx.Client
    other: httpx.Client
    root: Path

    def send(self, digest: str, data: bytes) -> str:
        upload = self.writer.post("/uploads", json={"digest": digest, "size": len(data)}).json()
        for number in range(1, upload["parts"] + 1):
            part = data[(number - 1) * upload["part_size"] : number * upload["part_size"]]
            assert self.put(upload["id"], number, part).status_code == 204
        return str(upload["id"])

    def put(self, upload: str, number: int, data: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/octet-stream"}
        return self.writer.put(f"/uploads/{upload}/parts/{number}", content=data, headers=headers)

    def result(self, answer: httpx.Response) -> dict[str, Any]:
        """What an operation came to, once it has ended."""
        while answer.json()["state"] not in {"done", "failed"}:
            time.sleep(0.05)
            answer = self.writer.get(f"/operations/{answer.json()['id']}")
        assert answer.json()["state"] == "done", answer.text
        found: dict[str, Any] = answer.json()["result"]
        return found


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "part_size", lambda size: 256)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    root = tmp_path_factory.mktemp("desk")
    library = with_tokens(fill(root / "library"))
    with (
        running(service_app(library.registry)) as url,
        httpx.Client(base_url=url + API, headers=library.headers("writer"), timeout=120) as writer,
        httpx.Client(base_url=url + API, headers=library.headers("admin"), timeout=120) as other,
    ):
        yield Desk(library, url, writer, other, root)
    library.shelf.close()


def adapter(desk: Desk, name: str, seed: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A request to publish an adapter, and the bytes by digest."""
    base: Base = desk.library.shelf.base("tiny", plain_base)
    folder = write_adapter(desk.root / f"new-{seed}", base, list(base.modules)[:2], seed=seed)
    made = request_of(folder, f"tiny/{name}", message="over HTTP", tags=("prod",))
    return made.request.model_dump(mode="json"), {digest: path.read_bytes() for digest, path in made.sources.items()}


@pytest.mark.usefixtures("small_parts")
def test_an_adapter_is_published(desk: Desk) -> None:
    request, sources = adapter(desk, "new", 7)
    plan = desk.writer.post("/publishes/plan", json=request).json()
    assert plan["parent"] == "tiny"
    weights = next(file["digest"] for file in request["files"] if file["path"].endswith(".safetensors"))
    assert weights in plan["missing"]
    sent = {digest: desk.send(digest, sources[digest]) for digest in plan["missing"]}
    answer = desk.writer.post("/publishes", json={"request": request, "uploads": sent})
    assert answer.status_code == 201, answer.text
    published = answer.json()
    assert published["revision"]["reference"] == "tiny/new@1"
    assert published["revision"]["author"] == "writer"
    assert published["registry"] == desk.url
    again = desk.writer.post("/publishes", json={"request": request, "uploads": {}})
    assert (again.status_code, again.json()["created"]) == (200, False)
    assert desk.writer.post("/publishes/plan", json=request).json()["missing"] == []
    with desk.library.registry.artifact("tiny/new@1", kind="published") as artifact:
        for path in artifact.files:
            data = artifact.file(path).read()
            assert sources["sha256:" + hashlib.sha256(data).hexdigest()] == data
    assert desk.library.registry.fsck(deep=True).damage == ()


def test_a_base_model_is_added(desk: Desk) -> None:
    base = plain_base(desk.root / "fresh", seed=3)
    made = base_request("fresh", base.folder, SILENT)
    request = made.request.model_dump(mode="json")
    plan = desk.writer.post("/bases/plan", json=request).json()
    sent = {digest: desk.send(digest, made.sources[digest].read_bytes()) for digest in plan["missing"]}
    answer = desk.writer.post("/bases", json={"request": request, "uploads": sent})
    assert answer.status_code in {201, 202}, answer.text  # on a busy machine it becomes an operation
    added = answer.json() if answer.status_code == 201 else desk.result(answer)["base_added"]
    assert added["base"]["name"] == "fresh"
    assert desk.writer.post("/bases", json={"request": request, "uploads": {}}).status_code == 200


def test_what_can_not_be_published_is_refused_before_any_byte_travels(desk: Desk) -> None:
    request, _ = adapter(desk, "never", 8)
    assert_problem(desk.writer.post("/publishes/plan", json={**request, "parent": "tiny/b@1"}), 409, "parent_mismatch")
    assert_problem(desk.writer.post("/publishes/plan", json={**request, "path": "tyni/new"}), 404, "not_found")
    assert_problem(desk.writer.post("/publishes/plan", json={**request, "path": "tiny/New"}), 400, "bad_name")
    assert_problem(desk.writer.post("/publishes/plan", json={**request, "files": []}), 422, "missing_file")


@pytest.mark.usefixtures("small_parts")
def test_wrong_bytes_are_not_published(desk: Desk) -> None:
    request, sources = adapter(desk, "wrong", 9)
    sent = {digest: desk.send(digest, bytes(len(data))) for digest, data in sources.items()}
    answer = desk.writer.post("/publishes", json={"request": request, "uploads": sent})
    assert_problem(answer, 422, "upload_mismatch")
    assert_problem(desk.writer.get("/log", params={"path": "tiny/wrong"}), 404, "not_found")


def test_a_wrong_digest_of_the_origin_is_the_clients_mistake(desk: Desk) -> None:
    request, _ = adapter(desk, "copied", 11)
    origin = {
        "registry": "far",
        "reference": "tiny/copied@1",
        "author": "ada",
        "created_at": "2024-02-29T12:00:00Z",
        "digest": "sha256:" + "0" * 64,
    }
    answer = desk.writer.post("/publishes/plan", json=request | {"origin": origin})
    assert assert_problem(answer, 422, "copy_mismatch")["kind"] == "IntegrityError"


def test_parts_that_are_not_there_are_sent_again(desk: Desk) -> None:
    """Whether the store lost them or they were never sent: the answer says so, and the upload goes on."""
    request, sources = adapter(desk, "parts", 12)
    plan = desk.writer.post("/publishes/plan", json=request).json()
    uploads = {digest: desk.send(digest, sources[digest]) for digest in plan["missing"][1:]}
    first = plan["missing"][0]
    begun = desk.writer.post("/uploads", json={"digest": first, "size": len(sources[first])}).json()
    uploads[first] = begun["id"]
    commit = {"request": request, "uploads": uploads}
    assert_problem(desk.writer.post("/publishes", json=commit), 503, "upload_incomplete")
    assert desk.send(first, sources[first]) == begun["id"]
    assert desk.writer.post("/publishes", json=commit).status_code == 201


def test_uploads_of_a_refused_commit_are_gone(desk: Desk) -> None:
    request, sources = adapter(desk, "refused", 13)
    plan = desk.writer.post("/publishes/plan", json=request).json()
    uploads = {digest: desk.send(digest, sources[digest]) for digest in plan["missing"]}
    refused = {"request": request | {"metrics": {"": 1.0}}, "uploads": uploads}
    assert desk.writer.post("/publishes", json=refused).status_code == 400
    assert {desk.writer.get(f"/uploads/{one}").status_code for one in uploads.values()} == {404}


@pytest.mark.usefixtures("small_parts")
def test_an_upload_goes_on_where_it_was(desk: Desk) -> None:
    data = bytes(range(256)) * 3 + b"end"
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    asked = {"digest": digest, "size": len(data)}
    answer = desk.writer.post("/uploads", json=asked)
    assert answer.status_code == 201
    upload = answer.json()
    assert (upload["parts"], upload["there"], upload["urls"]) == (4, [], {})
    assert desk.put(upload["id"], 2, data[256:512]).status_code == 204
    assert desk.put(upload["id"], 4, data[768:]).status_code == 204
    again = desk.writer.post("/uploads", json=asked).json()
    assert (again["id"], again["there"]) == (upload["id"], [2, 4])
    assert desk.writer.get(f"/uploads/{upload['id']}").json()["there"] == [2, 4]
    assert_problem(desk.other.get(f"/uploads/{upload['id']}"), 404, "not_found")  # it is not theirs
    answer = desk.writer.delete(f"/uploads/{upload['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert_problem(desk.writer.get(f"/uploads/{upload['id']}"), 404, "not_found")


@pytest.mark.usefixtures("small_parts")
def test_a_part_has_exactly_its_length(desk: Desk) -> None:
    upload = desk.writer.post("/uploads", json={"digest": "sha256:" + "0" * 64, "size": 600}).json()["id"]
    for number, length in ((1, 255), (1, 257), (1, 0), (3, 256), (4, 1), (9, 256)):
        assert_problem(desk.put(upload, number, bytes(length)), 400, "usage")
    assert_problem(desk.put(upload, 0, bytes(256)), 422, "usage")
    assert desk.writer.get(f"/uploads/{upload}").json()["there"] == []

    def chunked() -> Iterator[bytes]:
        yield bytes(256)

    answer = desk.writer.put(f"/uploads/{upload}/parts/1", content=chunked())
    assert_problem(answer, 400, "usage")
    assert desk.put(upload, 3, bytes(88)).status_code == 204


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_breaks_off_is_not_there(desk: Desk) -> None:
    upload = desk.writer.post("/uploads", json={"digest": "sha256:" + "1" * 64, "size": 600}).json()["id"]
    address = urlsplit(desk.url)
    head = (
        f"PUT {API}/uploads/{upload}/parts/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 256\r\n"
        f"Authorization: {desk.library.headers('writer')['Authorization']}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port or 0)) as wire:
        wire.sendall(head.encode() + bytes(200))
        time.sleep(0.1)
    assert desk.writer.get(f"/uploads/{upload}").json()["there"] == []
    assert desk.put(upload, 1, bytes(256)).status_code == 204
    assert desk.writer.get(f"/uploads/{upload}").json()["there"] == [1]


def test_a_large_part_passes_in_pieces(desk: Desk) -> None:
    data = b"x" * (5 << 20)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    upload = desk.writer.post("/uploads", json={"digest": digest, "size": len(data)}).json()
    assert desk.put(upload["id"], 1, data).status_code == 204
    assert desk.writer.get(f"/uploads/{upload['id']}").json()["there"] == [1]


def test_an_operation_says_where_its_registry_is_for_clients(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_work, "AT_ONCE", -1)
    request, sources = adapter(desk, "slow", 11)
    sent = {digest: desk.send(digest, data) for digest, data in sources.items()}
    published = desk.writer.post("/publishes", json={"request": request, "uploads": sent})
    assert published.status_code in {201, 202}, published.text
    with desk.library.registry.deployment.read() as session:
        made = session.scalar(select(JobRecord.id).where(JobRecord.kind == "publish"))
    while (answer := desk.writer.get(f"/operations/{made}").json())["state"] != "done":
        time.sleep(0.05)
    assert answer["result"]["published"]["registry"] == desk.url


@pytest.mark.parametrize("size", [-1, 1 << 63, 10**40])
def test_an_upload_of_a_size_that_no_store_takes_is_refused(desk: Desk, size: int) -> None:
    answer = desk.writer.post("/uploads", json={"digest": "sha256:" + "2" * 64, "size": size})
    assert_problem(answer, 422, "usage")


def test_long_work_becomes_an_operation(desk: Desk) -> None:
    answer = desk.other.post("/fsck", json={"deep": True})
    assert answer.status_code in {200, 202}, answer.text
    while answer.status_code == 202:
        answer = httpx.get(desk.url + answer.headers["location"], headers=desk.library.headers("admin"))
        if answer.json()["state"] == "done":
            assert answer.json()["result"]["checked"]["damage"] == []
            return
        time.sleep(0.05)
    assert answer.json()["damage"] == []
