"""What the views answer to all that other Hubs do: lists, tokens, other writes than pushes, and malformed requests."""

from __future__ import annotations

import httpx
import pytest

from registry.app import service_app
from registry.http.limits import Limits
from tests.hub.conftest import assert_missing, sha
from tests.kit.library import Library, running

NOTHING = [
    "", "/", "/x", "/x%0A", "/%0Ax", "/api", "/api/", "/api/models%0A/tiny/a",
    "/api/datasets/tiny/a", "/tiny/a", "/api/v1/tree", "/api/models/",
    "/api/models/tiny/a/xet-read-token/main", "/tiny/a/resolve/main",
]  # fmt: skip
LISTS = ["/api/datasets", "/api/spaces", "/api/models-tags-by-type"]
NOT_HERE = "List models with `registry tree` or `registry search`."


def test_the_view_has_nothing_else_to_read(reader: httpx.Client) -> None:
    for address in NOTHING:
        for method in ("GET", "HEAD"):
            assert assert_missing(reader.request(method, f"/hf{address}"), "RepoNotFound").endswith(NOT_HERE)


def test_a_list_that_other_hubs_have_is_no_repo_that_is_not_there(service: str, reader: httpx.Client) -> None:
    """The client would propose to create one."""
    for address in LISTS:
        for method in ("GET", "HEAD"):
            assert assert_missing(reader.request(method, f"/hf{address}"), None).endswith(NOT_HERE)
        assert_missing(httpx.get(f"{service}/hf{address}"), None, status=401)


WRITES = [
    ("PATCH", "/tiny/a/resolve/main/x"), ("POST", ""), ("POST", "/api/whoami-v2"), ("POST", "/api/jobs/tiny"),
    ("POST", "/api/models/tiny/a/lfs-files/duplicate"), ("PUT", "/api/models/tiny/a"), ("DELETE", "/api/models/tiny/a"),
]  # fmt: skip


@pytest.mark.parametrize("body", [None, {"name": "a", "organization": "tiny"}], ids=["empty", "with a body"])
def test_what_nobody_writes_is_told_to_everybody(service: str, reader: httpx.Client, body: object) -> None:
    """The same whoever asks, whatever there is: that nothing can be written is all that a stranger learns."""
    strangers = httpx.Client(base_url=service, headers={"Authorization": "Bearer reg_stranger"})
    with httpx.Client(base_url=service) as nobody, strangers as stranger:
        for method, address in WRITES:
            told = {
                assert_missing(client.request(method, f"/hf{address}", json=body), None)
                for client in (reader, nobody, stranger)
            }
            assert len(told) == 1
            assert told.pop().endswith(NOT_HERE)
        assert_missing(reader.request("OPTIONS", "/hf/tiny/a"), None)


LARGE = Limits().document + 1


def test_what_the_frame_refuses_has_the_form_of_the_view(service: str, reader: httpx.Client) -> None:
    """A client of the Hub reads no other."""
    for method in ("DELETE", "PATCH", "POST", "PUT"):
        assert_missing(reader.request(method, "/hf/api/repos/delete", content=bytes(LARGE)), None, status=413)
    assert_missing(reader.request("GET", "/hf/tiny/a/resolve/main/x", content=b"body"), None, status=413)
    assert_missing(reader.get("/hf/tiny/a", params={"text": "x" * 9999}), None, status=413)
    assert_missing(reader.get("/hf", headers={f"X-{n}": "1" for n in range(80)}), None, status=413)
    assert_missing(reader.request("BREW", "/hf/tiny/a"), None, status=405)
    commit = sha(reader, "hf", "tiny/a")
    beyond = reader.get(f"/hf/tiny/a/resolve/{commit}/config.json", headers={"Range": "bytes=999999-"})
    assert "lies outside the file" in assert_missing(beyond, None, status=416, commit=commit)
    assert beyond.headers["content-range"].startswith("bytes */")
    for path in ("/api/v1/revisions", "/hfx"):
        answer = reader.request("DELETE", path, json={})
        assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


def test_whose_a_token_is(service: str, library: Library, reader: httpx.Client) -> None:
    told = reader.get("/hf/api/whoami-v2").json()
    token = reader.get("/api/v1/whoami").json()["token"]
    assert told["auth"] == {"type": "access_token", "accessToken": {"displayName": token, "role": "read"}}
    assert (told["type"], told["id"], told["name"], told["fullname"]) == ("user", token, "reader", "reader")
    assert told["orgs"] == []
    assert library.secrets["reader"] not in str(told)
    for headers in ({}, {"Authorization": "Bearer reg_stranger"}, library.headers("revoked")):
        answer = httpx.get(f"{service}/hf/api/whoami-v2", headers=headers)
        assert_missing(answer, None, status=401)


def test_where_everybody_may_read_nobody_is_named_without_a_token(library: Library) -> None:
    with running(service_app(library.registry, "read")) as address, httpx.Client(base_url=address) as client:
        assert client.get("/hf/api/models/tiny/a").status_code == 200
        assert_missing(client.get("/hf/api/whoami-v2"), None, status=401)
        assert client.get("/hf/api/whoami-v2", headers=library.headers("reader")).json()["name"] == "reader"
