"""Clients and services of different versions: unknown fields, and protocols that one of them doesn't speak."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from pydantic import create_model

from registry.client.remote import RemoteRegistry
from registry.client.transport import Transport
from registry.errors import UnavailableError, UsageError
from registry.schemas import Deleted, Retracted, RevisionSummary, Schema, Shown
from registry.schemas.protocol import API, PROTOCOL_HEADER
from registry.schemas.requests import RetractRequest
from tests.client.conftest import Team
from tests.client.strange import Request, relayed, response, strange_server
from tests.kit import plain_base, write_adapter

OF_USERS: Final = {"metrics", "annotations", "detail", "ranks", "by_interface", "front_matter"}
"""Fields whose keys users choose."""
AGENT_BEFORE: Final = {"User-Agent": "adapter-registry/0.2.0"}
Ask = Callable[[Request], bytes]


@pytest.fixture
def adapter(team: Team, tmp_path: Path) -> Path:
    """A folder whose adapter is published as ``net/one`` and ``net/one/two``."""
    base = plain_base(tmp_path / "net")
    team.local.add_base("net", tmp_path / "net")
    folder = tmp_path / "adapter"
    write_adapter(folder, base, list(base.modules)[:1])
    team.local.publish(folder, "net/one", tags=["prod"], metrics={"acc": 0.5})
    team.local.publish(folder, "net/one/two", message="second", annotations={"run": "7"})
    return folder


def summary(team: Team) -> RevisionSummary:
    found = team.local.show("net/one").revision
    assert found is not None
    return found


def with_news(found: Any) -> Any:
    """A document as a later version may send it: with one more field in each of its objects."""
    if isinstance(found, list):
        return [with_news(one) for one in found]
    if isinstance(found, dict):
        told = {name: one if name in OF_USERS else with_news(one) for name, one in found.items()}
        return told | {"news": {"of": ["a", "later", "version"]}}
    return found


def later(team: Team, *, protocol: str | None = None) -> Ask:
    """The service as a later version of it."""

    def answer(request: Request) -> bytes:
        head, _, body = relayed(request, team.url).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        if protocol is not None:
            lines = [
                f"{PROTOCOL_HEADER}: {protocol}" if line.lower().startswith("x-registry-protocol") else line
                for line in lines
            ]
        if "json" in head.decode().lower().partition("content-type:")[2].partition("\r\n")[0] and body:
            body = json.dumps(with_news(json.loads(body))).encode()
        status = lines[0].removeprefix("HTTP/1.1 ")
        kept = [line for line in lines[1:] if not line.lower().startswith(("content-length", "connection"))]
        return response(status, body, *kept, ours=False)

    return answer


def test_fields_of_a_later_service_are_ignored(team: Team, adapter: Path) -> None:
    with strange_server(later(team)) as server:
        client = team.client(url=server.url)
        assert client.tree() == team.local.tree()
        assert client.search() == team.local.search()
        assert client.log("net/one") == team.local.log("net/one")
        assert client.events() == team.local.events()
        assert client.show("net/one").model_copy(update={"use": None}) == team.local.show("net/one").model_copy(
            update={"use": None}
        )
        published = client.publish(adapter, "net/three", tags=["new"])
        assert published.revision.reference == "net/three@1"
        assert client.materialise("net/one", kind="merged").created  # a job
        assert client.retract("net/one@1", reason="wrong data").done
        with pytest.raises(UsageError) as refused:  # a problem, which has a later field too
            client.tag("net/three", "not a tag")
        assert refused.value.code == "bad_name"


@pytest.mark.parametrize("ask", [lambda client: client.bundle("net/one"), lambda client: client.artifact("net/one")])
def test_what_weights_are_made_by_is_read_to_the_last_field(
    team: Team, adapter: Path, ask: Callable[[RemoteRegistry], object]
) -> None:
    del adapter
    with strange_server(later(team)) as server, pytest.raises(UnavailableError, match="can't read") as refused:
        ask(team.client(url=server.url))
    assert refused.value.code == "other_version"


def older(kind: type[Schema], *lacking: str) -> type[Schema]:
    """A schema as an earlier version has it: without some of its fields."""
    fields: Any = {name: (one.annotation, one) for name, one in kind.model_fields.items() if name not in lacking}
    return create_model(f"Older{kind.__name__}", __base__=Schema, **fields)


def test_a_client_that_knows_fewer_fields_is_served(team: Team, adapter: Path) -> None:
    del adapter
    transport = Transport(team.url, None)
    shown = older(Shown, "children", "tag_history", "materialisations", "use", "card")
    assert transport.get("/revisions", shown, ref="net/one").model_dump()["repo_id"] == "net/one"
    request = RetractRequest(ref="net/one@1", reason="wrong data")
    retracted = transport.send("POST", "/retractions", older(Retracted, "done", "use"), request)
    assert retracted.model_dump()["reference"] == "net/one@1"
    deleted = transport.send("DELETE", "/revisions", older(Deleted, "done", "use"), ref="net/one/two@1")
    assert deleted.model_dump()["reference"] == "net/one/two@1"
    transport.close()


def test_a_request_of_a_later_client_is_refused_and_not_done_in_part(team: Team, adapter: Path) -> None:
    del adapter
    body = {"ref": "net/one@1", "tag": "new", "only_on_sundays": True}
    answer = httpx.put(f"{team.url}{API}/tags", json=body, headers={PROTOCOL_HEADER: "4"})
    assert (answer.status_code, answer.json()["code"]) == (422, "usage")
    assert summary(team).tags == ("prod",)


def test_a_client_of_the_protocol_before_is_refused_before_anything_is_done(team: Team, adapter: Path) -> None:
    """It refuses fields that it doesn't know, so it would say that what was done has failed."""
    del adapter
    for headers in (AGENT_BEFORE, {PROTOCOL_HEADER: "3"}, AGENT_BEFORE | {PROTOCOL_HEADER: "x"}):
        body = {"ref": "net/one@1", "reason": "wrong data"}
        answer = httpx.post(f"{team.url}{API}/retractions", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "other_version")
        assert answer.headers[PROTOCOL_HEADER] == "4"  # by which clients of 0.2.0 say which side to upgrade
    assert summary(team).retracted is None


@pytest.mark.parametrize("headers", [{}, {"User-Agent": "curl/8.14"}, AGENT_BEFORE | {PROTOCOL_HEADER: "4"}])
def test_other_programs_and_clients_of_today_are_served(team: Team, headers: dict[str, str]) -> None:
    assert httpx.get(f"{team.url}{API}/tree", headers=headers).json() == {"roots": []}


def test_a_service_of_the_protocol_before_is_used(team: Team, adapter: Path) -> None:
    with strange_server(later(team, protocol="3")) as server:
        client = team.client(url=server.url)
        published = client.publish(adapter, "net/three")
        assert published.revision.reference == "net/three@1"
        assert server.requests[-1].headers[PROTOCOL_HEADER.lower()] == "4"
