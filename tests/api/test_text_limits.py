"""Texts and times that a database can't keep: refused by the routes, before a database meets them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.app import service_app
from registry.schemas.protocol import API, cursor_to
from tests.kit import plain_base, write_adapter
from tests.kit.library import assert_problem
from tests.kit.library import running as serving
from tests.kit.places import open_place
from tests.kit.sending import SHAPES, request_of


@pytest.fixture
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[httpx.Client]:
    """An admin of a team's registry with the base model net."""
    with open_place(request, tmp_path / "registry", kind="team") as place:
        base = plain_base(tmp_path / "base", SHAPES)
        place.registry.add_base("net", base.folder)
        write_adapter(tmp_path / "one", base, ["a", "b"], r=2)
        place.registry.publish(tmp_path / "one", "net/one")
        secret = place.registry.create_token("admin").secret
        headers = {"Authorization": f"Bearer {secret}"}
        with (
            serving(service_app(place.registry)) as address,
            httpx.Client(base_url=address + API, headers=headers, timeout=60) as opened,
        ):
            yield opened


def published(client: httpx.Client, tmp_path: Path, **said: Any) -> tuple[dict[str, Any], httpx.Response]:
    """The request for net/one once more, with what is ``said``; and what planning it answers."""
    body = request_of(tmp_path / "one", "net/one").request.model_dump(mode="json") | said
    return body, client.post("/publishes/plan", json=body)


def test_broken_texts_are_refused(client: httpx.Client, tmp_path: Path) -> None:
    for route, query in (
        ("search", {"base": "\0"}),
        ("search", {"text": "a\0"}),
        ("protected-tags", {"base": "\0"}),
        ("materialisations", {"ref": "\0"}),
        ("tree", {"path": "\0"}),
        *((route, {"cursor": cursor_to(text)}) for route in ("bases", "tokens", "search") for text in ("\0", "\ud800")),
        ("materialisations", {"cursor": cursor_to(["net/one@1", "2026-01-02T03:04:05Z", "\0"])}),
    ):
        assert_problem(client.get(f"/{route}", params=query), 422, "usage")
    for route, query in (("materialisations", {"which": "\0"}), ("tags", {"path": "net/one", "tag": "\0"})):
        assert_problem(client.delete(f"/{route}", params=query), 422, "usage")
    for remove in (True, False):
        for code, body in (
            ("usage", {"base": "net", "pattern": "\0"}),
            ("bad_name", {"base": "\0", "pattern": "prod"}),
        ):
            assert_problem(client.put("/protected-tags", json={**body, "remove": remove}), 400, code)
    request, _ = published(client, tmp_path)
    digest = request["files"][0]["digest"]
    for upload in ("\0", "none", "A" * 32):
        answer = client.post("/publishes", json={"request": request, "uploads": {digest: upload}})
        assert_problem(answer, 422, "usage")


def test_times_that_are_none_in_utc_are_refused(client: httpx.Client, tmp_path: Path) -> None:
    beyond = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"
    for when in (*beyond, "2020-01-01T00:00:00", "2020-01-01", 0):
        origin = {"registry": "x", "reference": "net/one@5", "author": "ada", "created_at": when, "digest": "sha256:0"}
        _, answer = published(client, tmp_path, origin=origin)
        told = assert_problem(answer, 422, "usage")
        assert "created_at" in told["detail"]


def test_a_time_of_a_copy_is_read_back(client: httpx.Client, tmp_path: Path) -> None:
    listed = client.get("/log", params={"path": "net/one"}).json()["items"]
    copied = {"registry": "x", "reference": "net/c@5", "author": "ada", "digest": listed[0]["digest"]}
    for number, (when, read) in enumerate((
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("2024-02-29T12:00:00+02:00", "2024-02-29T10:00:00Z"),
    )):  # fmt: skip
        path = f"net/c{number}"
        request, plan = published(client, tmp_path, path=path, origin=copied | {"created_at": when})
        assert (plan.status_code, plan.json()["missing"]) == (200, [])
        made = client.post("/publishes", json={"request": request, "uploads": {}})
        assert made.status_code == 201, made.text
        (found,) = client.get("/log", params={"path": path}).json()["items"]
        assert found["created_at"] == read
