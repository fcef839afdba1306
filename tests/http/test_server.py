"""The process: says when it is ready, refuses what may not be served, ends without cutting anybody off."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.testclient import TestClient

from registry.app import service_app
from registry.errors import NotAllowedError, UnavailableError, UsageError
from registry.http.server import address_of, allowed_access, listen, serve
from registry.schemas.protocol import API
from registry.services.local import LocalRegistry
from tests.kit.library import assert_problem, fill
from tests.kit.servers import S3Place

StartService = Callable[..., Any]


@pytest.mark.parametrize(
    ("host", "anonymous", "embedded", "has_tokens", "access"),
    [
        ("127.0.0.1", "none", True, False, "open"),
        ("localhost", "none", True, False, "open"),
        ("::1", "none", True, True, "open"),  # and closed by the token that there is
        ("127.0.0.1", "none", False, True, "none"),
        ("0.0.0.0", "none", True, True, "none"),
        ("0.0.0.0", "none", False, True, "none"),
        ("0.0.0.0", "read", True, False, "read"),
        ("127.0.0.1", "read", True, False, "read"),
    ],
)
def test_who_comes_in_without_a_token(host: str, anonymous: Any, embedded: bool, has_tokens: bool, access: str) -> None:
    assert allowed_access(host, anonymous, embedded=embedded, has_tokens=has_tokens) == access


@pytest.mark.parametrize(
    ("host", "embedded"), [("0.0.0.0", True), ("192.0.2.1", True), ("::", True), ("127.0.0.1", False)]
)
def test_what_nobody_could_use_or_everybody_own_is_not_served(host: str, embedded: bool) -> None:
    with pytest.raises(NotAllowedError, match="token create --role admin"):
        allowed_access(host, "none", embedded=embedded, has_tokens=False)


def test_answering_does_not_touch_the_filter_of_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the whole process's: of two services that answer first requests at once, one would raise a warning."""
    with closing(LocalRegistry.open(tmp_path / "registry", create=True)) as registry:
        client = TestClient(service_app(registry))
        set_to: list[object] = []
        monkeypatch.setattr(warnings, "simplefilter", lambda *given, **_: set_to.append(given))
        for address in ("/api/v1/whoami", "/hf/api/whoami-v2", "/hf/tiny/a/resolve/main/x", "/adapters/tiny", "/no"):
            for method in ("GET", "POST"):
                assert client.request(method, address).status_code in {200, 401, 404, 405}
        assert not set_to


def test_an_address_that_is_taken_or_foreign_is_one_sentence(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken, closing(LocalRegistry.open(tmp_path)) as registry:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"port {port}"):
            serve(registry, service_app, host="127.0.0.1", port=port, embedded=True)
    with pytest.raises(UsageError, match="not an address"):
        listen("no such host", 0)
    with pytest.raises(UsageError, match="port"):
        listen("127.0.0.1", 70_000)
    with listen("::1", 0) as six:
        assert address_of(six).startswith("http://[::1]:")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = fill(tmp_path_factory.mktemp("served"))
    shelf.close()
    return shelf.root / "registry"


@pytest.mark.slow
def test_a_service_says_that_its_registry_is_new(start_service: StartService, tmp_path: Path) -> None:
    """Whoever mistypes the folder finds nothing in it, and is told why."""
    service = start_service({"REGISTRY_URL": str(tmp_path / "new")})
    assert service.log[0] == f"Serving {tmp_path / 'new'} (new and empty) on {service.url}"
    assert service.stop() == 0
    again = start_service({"REGISTRY_URL": str(tmp_path / "new")})
    assert again.log[0] == f"Serving {tmp_path / 'new'} on {again.url}"


def test_a_service_says_where_it_is_and_ends_when_it_is_asked(start_service: StartService, folder: Path) -> None:
    service = start_service({"REGISTRY_URL": str(folder)})
    assert service.log[0] == f"Serving {folder} on {service.url}"
    answer = httpx.get(f"{service.url}{API}/tree")
    assert answer.status_code == 200
    assert service.stop() == 0
    lines = [json.loads(line) for line in service.log[1:]]
    (line,) = [line for line in lines if line.get("route") == f"{API}/tree"]
    assert line["request"] == answer.headers["x-request-id"]
    assert service.printed == []


@pytest.mark.slow
def test_a_request_under_way_ends_before_the_process_does(start_service: StartService, tmp_path: Path) -> None:
    shelf = fill(tmp_path)
    shelf.close()
    service = start_service({"REGISTRY_URL": str(shelf.root / "registry")})
    data = b"x" * 1000
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    upload = httpx.post(f"{service.url}{API}/uploads", json={"digest": digest, "size": len(data)}).json()["id"]
    address = urlsplit(service.url)
    place = (address.hostname, address.port or 0)
    # Both are known to the service when it is told to end: one was asked to go on, the other has had an answer.
    lines = [f"PUT {API}/uploads/{upload}/parts/1 HTTP/1.1", "Host: localhost", "Content-Length: 1000"]
    head = "\r\n".join([*lines, "Expect: 100-continue", "", ""])
    with socket.create_connection(place, timeout=120) as wire, socket.create_connection(place, timeout=120) as idle:
        wire.sendall(head.encode())
        assert wire.recv(65536).startswith(b"HTTP/1.1 100")
        wire.sendall(data[:400])
        idle.sendall(b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1")
        service.process.send_signal(signal.SIGINT)  # Ctrl-C
        assert idle.recv(1) == b""  # who asks for nothing is let go at once
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        assert service.running
        wire.sendall(data[400:])
        answer = wire.recv(65536)
        assert answer.startswith(b"HTTP/1.1 204"), answer
        assert wire.recv(1) == b""
    assert service.process.wait(120) == 0


@pytest.mark.slow
def test_a_team_is_served(
    start_service: StartService, postgres_migrated_url: str, s3_store: S3Place, tmp_path: Path
) -> None:
    from registry.storage.s3 import S3Driver

    settings = {"REGISTRY_DATABASE_URL": postgres_migrated_url, "REGISTRY_STORE_URL": s3_store.url, **s3_store.environ}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_store.environ.items():
            patch.setenv(name, value)
        registry = LocalRegistry.of(postgres_migrated_url, S3Driver(s3_store.url))
        shelf = fill(tmp_path)
        for ref in ("tiny/a@2", "tiny/a/x@1"):
            shelf.registry.copy(ref, registry)
        shelf.close()
        secret = registry.create_token("admin").secret
    service = start_service(settings)
    with httpx.Client(base_url=service.url + API, headers={"Authorization": f"Bearer {secret}"}) as client:
        plan = client.get("/artifacts", params={"ref": "tiny/a@2", "kind": "published"}).json()
        for file in plan["files"]:
            address = f"/artifacts/{plan['rendering'][7:]}/{file['path']}"
            asked = {"ref": plan["reference"], "kind": "published"}
            answer = client.get(address, params=asked)
            assert answer.status_code == 307
            assert answer.headers["location"].startswith(s3_store.endpoint)
            assert answer.headers["cache-control"] == "no-store"
            sent = httpx.get(answer.headers["location"]).content  # without the token
            with registry.artifact("tiny/a@2", kind="published") as artifact:
                assert artifact.file(file["path"]).read() == sent
            head = client.head(address, params=asked)
            assert (head.status_code, head.headers["content-length"]) == (200, str(len(sent)))
            kept = client.get(address, params=asked, headers={"If-None-Match": head.headers["etag"]})
            assert kept.status_code == 304
        link = client.get("/bundles", params={"ref": "tiny/a/x@1"}).json()["links"][0]
        blob = client.get(f"/blobs/{link['files'][0]['digest']}", params={"ref": "tiny/a/x@1"}, follow_redirects=True)
        assert "sha256:" + hashlib.sha256(blob.content).hexdigest() == link["files"][0]["digest"]
        upload = client.post("/uploads", json={"digest": "sha256:" + "0" * 64, "size": 3}).json()
        assert upload["urls"]["1"].startswith(s3_store.endpoint)
        merged = client.get("/artifacts", params={"ref": "tiny/a/x@1", "kind": "merged"}).json()
        for file in merged["files"]:
            address = f"/artifacts/{merged['rendering'][7:]}/{file['path']}"
            answer = client.get(address, params={"ref": "tiny/a/x@1", "kind": "merged"})
            with registry.artifact("tiny/a/x@1", kind="merged") as artifact:
                assert artifact.file(file["path"]).read() == answer.content
    assert service.stop() == 0
    assert "Signature" not in "".join(service.log)
    registry.close()


@pytest.mark.slow
def test_what_it_stands_on_is_named_when_it_is_gone(
    start_service: StartService, private_postgres: Any, tmp_path: Path
) -> None:
    from registry.catalogue.database.database import Database

    url = private_postgres.database()
    database = Database(url)
    database.prepare()
    database.dispose()
    store = tmp_path / "store"
    store.mkdir()
    settings = {"REGISTRY_DATABASE_URL": url, "REGISTRY_STORE_URL": str(store)}
    service = start_service(settings, "--anonymous", "read")
    assert httpx.get(f"{service.url}/readyz").json() == {"ready": True, "database": "ok", "store": "ok"}
    private_postgres.stop()
    told = assert_problem(httpx.get(f"{service.url}/readyz", timeout=60), 503, "unavailable")
    assert "database" in told["detail"]
    assert "store" not in told["detail"]
    assert httpx.get(f"{service.url}/healthz").status_code == 200
    assert httpx.get(f"{service.url}/metrics", timeout=60).status_code == 200
    assert_problem(httpx.get(f"{service.url}{API}/tree", timeout=60), 503, "unavailable")
    private_postgres.start()
    assert httpx.get(f"{service.url}/readyz", timeout=60).status_code == 200
    assert httpx.get(f"{service.url}{API}/tree", timeout=60).status_code == 200
    assert "postgres@" not in httpx.get(f"{service.url}{API}/whoami").text


def test_a_database_that_does_not_fit_is_not_served(postgres_url: str, tmp_path: Path) -> None:
    from registry.storage.filesystem import FilesystemDriver

    registry = LocalRegistry.of(postgres_url, FilesystemDriver(tmp_path))
    with pytest.raises(UnavailableError, match="registry db upgrade") as caught:
        serve(registry, service_app, host="127.0.0.1", port=0, anonymous="read", embedded=False)
    assert caught.value.code == "schema_older"
    registry.close()
