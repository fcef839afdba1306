"""A network whose login page answers in place of the service, for a request or two: no byte of it is ever kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from registry.client.remote import RemoteRegistry
from registry.errors import UnavailableError
from registry.folders.staging import FetchCache
from registry.schemas import ArtifactKind
from tests.client.conftest import Team
from tests.client.strange import Request, relayed, response, strange_server
from tests.kit import plain_base, write_adapter
from tests.kit.serving import QUICK

PAGE = b"<html><body>Please log in to the guest network</body></html>"
HTML = "Content-Type: text/html"
WITHOUT_LENGTH = f"HTTP/1.1 200 OK\r\n{HTML}\r\nConnection: close\r\n\r\n".encode() + PAGE


@pytest.mark.long_but("merged-with length", "merged-moved", "lora-without length", "lora-found")
@pytest.mark.parametrize(
    "page",
    [
        WITHOUT_LENGTH,
        response("200 OK", PAGE, HTML, ours=False),
        response("302 Found", b"", "Location: /portal/api/v1/artifacts/login", ours=False),
        response("307 Temporary Redirect", b"", "Location: /portal/api/v1/artifacts/login", ours=False),
    ],
    ids=["without length", "with length", "found", "moved"],
)
@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_a_login_page_is_no_beginning_of_a_file(team: Team, tmp_path: Path, page: bytes, kind: ArtifactKind) -> None:
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16)})
    team.local.add_base("net", base.folder)
    team.local.publish(write_adapter(tmp_path / "one", base, ["a"], r=2), "net/one")
    interrupted: list[str] = []

    def answer(request: Request) -> bytes:
        if "/portal/" in request.line:
            return WITHOUT_LENGTH
        if "model.safetensors?" in request.line and not interrupted:
            interrupted.append(request.line)
            return page
        return relayed(request, team.url)

    with strange_server(answer) as proxy:
        client = RemoteRegistry(proxy.url, cache=FetchCache(tmp_path / "cache"), retry=QUICK)
        with pytest.raises(UnavailableError) as refused:
            client.fetch("net/one", tmp_path / "out", kind=kind)
        assert refused.value.code == "not_a_registry"
        assert proxy.url in str(refused.value)
        assert not (tmp_path / "out").exists()
        there = client.fetch("net/one", tmp_path / "out", kind=kind)
        client.close()
    assert interrupted
    here = team.local.fetch("net/one", tmp_path / "here", kind=kind)
    assert {file.path for file in there.files} == {file.path for file in here.files}
    for file in here.files:
        assert sha(tmp_path / "out" / file.path) == sha(tmp_path / "here" / file.path)


def sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
