"""The address of a repo in a browser leads to its page; clients see what they saw before."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from registry.app import service_app
from registry.schemas.protocol import VIEWS
from tests.kit.library import Library, running
from tests.kit.pages import PEOPLE

LEADS = {
    "tiny/a": "/tree/tiny/a",
    "models/tiny/a.x": "/tree/tiny/a/x",
    "tiny/_": "/tree/tiny",
    "tiny/_/tree/main": "/tree/tiny",
    "tiny/a/tree/main": "/tree/tiny/a",
    "tiny/a.x/tree/r1": "/tree/tiny/a/x@1",
    "tiny/a.x/tree/v1.0/adapter": "/tree/tiny/a/x@v1.0",
    "models/tiny/a/blob/prod/adapter_config.json": "/tree/tiny/a@prod",
    "tiny/a/commits/r2": "/tree/tiny/a@2",
    "tiny/a/tree/no%20tag": "/tree/tiny/a",
    "tiny/a/discussions": "/tree/tiny/a",
    "tiny/none": "/tree/tiny/none",
}


@pytest.fixture(scope="module")
def address(library: Library) -> Iterator[str]:
    with running(service_app(library.registry)) as found:
        yield found


@pytest.mark.parametrize("view", VIEWS)
def test_a_repo_leads_to_its_page_whoever_asks(address: str, view: str) -> None:
    for path, page in LEADS.items():
        answer = httpx.get(f"{address}/{view}/{path}", headers=PEOPLE)
        assert (answer.status_code, answer.headers["location"]) == (303, page), path
        assert answer.headers["vary"] == "Accept"


@pytest.mark.parametrize("path", ["", "/", "/tiny", "/api/a", "/datasets/a", "/Tiny/A", "/tiny/a..b", "//tiny/a"])
def test_what_is_no_repo_is_told_as_before(address: str, path: str) -> None:
    there, known = (httpx.get(f"{address}/hf{path}", headers=headers) for headers in (PEOPLE, {"Accept": "*/*"}))
    assert (there.status_code, there.content) == (known.status_code, known.content)
    assert there.status_code in {401, 404}


def test_clients_see_what_they_saw_before(address: str, library: Library) -> None:
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        assert httpx.get(f"{address}/hf/tiny/a", headers=headers).status_code == 401
        answer = httpx.get(f"{address}/hf/tiny/a", headers=headers | library.headers("reader"))
        assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RepoNotFound")
    head = httpx.head(f"{address}/hf/tiny/a", headers=PEOPLE | library.headers("reader"))
    assert (head.status_code, head.headers["x-error-code"]) == (404, "RepoNotFound")
    info = httpx.get(f"{address}/hf/api/models/tiny/a", headers=PEOPLE | library.headers("reader"))
    assert info.json()["id"] == "tiny/a"


@pytest.mark.parametrize("view", VIEWS)
def test_a_commit_leads_to_the_revision_that_it_is(address: str, library: Library, view: str) -> None:
    with httpx.Client(base_url=address, headers=PEOPLE | library.headers("reader of a")) as client:
        commit = client.get(f"/{view}/api/models/tiny/a/revision/r1").json()["sha"]
        answer = client.get(f"/{view}/tiny/a/commit/{commit}")
        assert answer.headers["location"] == f"/commit/{view}/{commit}/tiny/a"
        page = client.get(answer.headers["location"])
        assert page.headers["location"] == f"/tree/tiny/a@{library.registry.show('tiny/a@1').revision.digest}"  # type: ignore[union-attr]
        assert client.get(page.headers["location"]).status_code == 200
        for other in (f"/commit/{view}/{'0' * 40}/tiny/a", f"/commit/{view}/{commit}/tiny/b", "/commit/x/y/tiny/a"):
            assert client.get(other).status_code == 404
    assert httpx.get(address + answer.headers["location"], headers=PEOPLE).status_code == 401


def test_below_a_prefix_pages_files_and_lists_are_too(library: Library) -> None:
    app = service_app(library.registry, public_url="https://registry.example/team")
    with running(app) as address, httpx.Client(base_url=f"{address}/hf", headers=library.headers("reader")) as client:
        assert client.get("/tiny/a.x", headers=PEOPLE).headers["location"] == "/team/tree/tiny/a/x"
        moved = client.get("/tiny/a/resolve/main/config.json").headers["location"]
        assert moved.startswith("/team/hf/tiny/a/resolve/")
        assert f"{address}/team/hf/api/models?limit=1&cursor=" in client.get("/api/models?limit=1").headers["link"]
