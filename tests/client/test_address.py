"""Where the registry is, in which order the places are looked at, and which token goes where."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import registry
from registry.app import find_place, log_in, log_out, open_registry
from registry.client.addresses import Credentials
from registry.client.remote import RemoteRegistry
from registry.errors import NotAllowedError, UnavailableError, UsageError
from registry.http.access import Anonymous
from registry.schemas import Identity, Tree
from registry.schemas.protocol import VIEWS
from registry.services.local import LocalRegistry
from registry.settings import Settings, read_settings
from tests.client.strange import StrangeServer, problem, response, strange_server
from tests.kit.serving import served

WHO = Identity(
    url="folder", name="ann", role="writer", scopes=(), token="t1", expires_at=None, version="1", service_version=None
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("REGISTRY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def service() -> Iterator[StrangeServer]:
    """Knows the token `right`, and nothing else."""

    def answer(request: object) -> bytes:
        headers, line = request.headers, request.line  # type: ignore[attr-defined]
        if headers.get("authorization") not in {None, "Bearer right"}:
            detail = "This token is unknown."
            return problem("401 Unauthorized", kind="NotAllowedError", code="bad_token", detail=detail)
        found = WHO if "whoami" in line else Tree(roots=())
        return response("200 OK", found.model_dump_json().encode(), "Content-Type: application/json")

    with strange_server(answer) as server:
        yield server


def test_the_order_of_places(tmp_path: Path) -> None:
    team = {"REGISTRY_DATABASE_URL": "postgresql://db/registry", "REGISTRY_STORE_URL": "s3://bucket/team"}
    at = {"REGISTRY_URL": "https://set.example"}
    assert find_place(None, Settings()).folder == tmp_path / "data" / "adapter-registry"
    Credentials.of_user().keep("https://login.example", "secret")
    assert find_place(None, Settings()).address == "https://login.example"
    in_process = find_place(None, read_settings(team))
    assert (in_process.folder, in_process.address) == (None, None)
    assert find_place(None, read_settings(team | at)).address == "https://set.example"
    assert find_place("https://given.example", read_settings(team | at)).address == "https://given.example"
    assert find_place(tmp_path, read_settings(team | at)).folder == tmp_path


@pytest.mark.parametrize("url", ["", "s3://bucket/x", "postgresql://me:secret@db/x", "a\0b"])
def test_places_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="location of") as refused:
        registry.connect(url)
    assert "secret" not in str(refused.value)


def test_a_folder_takes_no_token(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="token"):
        registry.connect(tmp_path / "registry", "secret")
    assert not (tmp_path / "registry").exists()


def sent_token(server: StrangeServer, url: str | None, token: str | None = None) -> str | None:
    """What the service was shown."""
    with closing(open_registry(url, token, create=False)) as opened:
        assert isinstance(opened, RemoteRegistry)
        opened.tree()
    return server.requests[-1].headers.get("authorization")


def test_which_token_is_sent(service: StrangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = service.url
    assert sent_token(service, url) is None
    Credentials.of_user().keep(url, "right")
    assert sent_token(service, None) == "Bearer right"
    Credentials.of_user().forget(url)
    monkeypatch.setenv("REGISTRY_TOKEN", "right")
    assert sent_token(service, url) is None  # for no host: REGISTRY_URL is not set
    monkeypatch.setenv("REGISTRY_URL", "http://127.0.0.1:1")
    assert sent_token(service, url) is None  # for another host
    monkeypatch.setenv("REGISTRY_URL", f"{url}/")
    assert sent_token(service, None) == "Bearer right"
    assert sent_token(service, url) == "Bearer right"
    monkeypatch.setenv("REGISTRY_TOKEN", "wrong")
    assert sent_token(service, url, "right") == "Bearer right"


def test_connect_says_at_once_that_nobody_answers(service: StrangeServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(UnavailableError, match="nothing answers at that port; check the address") as refused:
        registry.connect(nobody)
    assert "Errno" not in str(refused.value)
    with open_registry(nobody, create=True):
        pass  # a command asks only what it has to
    with registry.connect(service.url, "wrong"):  # what answers is looked at by the first call
        pass
    assert service.lines == ["GET /healthz HTTP/1.1"]
    assert "authorization" not in service.requests[0].headers


def test_login_checks_before_it_keeps(service: StrangeServer) -> None:
    with pytest.raises(NotAllowedError) as refused:
        log_in(service.url, "wrong")
    assert refused.value.code == "bad_token"
    assert Credentials.of_user().default_url() is None
    identity = log_in(service.url + "/", "right")
    assert (identity.url, identity.name, identity.service_version) == (service.url, "ann", "1")
    assert identity.version == registry.__version__
    assert sent_token(service, None) == "Bearer right"
    assert log_out() == service.url
    assert Credentials.of_user().default_url() is None


@pytest.mark.parametrize("anonymous", ["none", "open"])
def test_login_at_a_view_for_the_hubs_clients_says_what_to_leave_out(tmp_path: Path, anonymous: Anonymous) -> None:
    local = LocalRegistry.open(tmp_path / "registry")
    with closing(local), served(local, anonymous=anonymous) as url:
        for view in VIEWS:
            with pytest.raises(
                UnavailableError, match=f"leave out /{view}: the address of the registry is {url}"
            ) as at:
                log_in(f"{url}/{view}/", "wrong")
            assert at.value.code == "not_a_registry"
    assert Credentials.of_user().default_url() is None
