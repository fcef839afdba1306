"""Which requests count as a use of a revision, by whom and through what, and what of it each token is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.app import service_app
from registry.client.transport import Transport
from registry.schemas.protocol import API, USE_HEADER
from tests.kit.library import Library, fill, running, with_tokens


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    shelf = fill(tmp_path)
    yield with_tokens(shelf)
    shelf.close()


@pytest.fixture
def service(library: Library) -> Iterator[str]:
    with running(service_app(library.registry)) as address:
        yield address


@pytest.fixture
def ask(service: str, library: Library) -> Iterator[Any]:
    with httpx.Client(base_url=service + API, timeout=120, follow_redirects=False) as client:

        def do(method: str, route: str, who: str = "reader", use: str | None = None, **params: str) -> httpx.Response:
            headers = library.headers(who) | ({} if use is None else {USE_HEADER: use})
            answer = client.request(method, route, params=params, headers=headers)
            assert answer.status_code < 300, answer.text
            return answer

        yield do


def used(library: Library, ref: str) -> Mapping[str, int]:
    assert library.registry.deployment.uses is not None
    library.registry.deployment.uses.write()
    found = library.registry.show(ref).use
    assert found is not None
    assert found.uses == sum(found.by_interface.values())
    return found.by_interface


def test_a_plan_is_a_use_and_the_reading_after_it_is_none(library: Library, ask: Any) -> None:
    plan = ask("GET", "/artifacts", ref="tiny/a@prod").json()
    rendering, file = plan["rendering"].removeprefix("sha256:"), plan["files"][0]["path"]
    for method in ("HEAD", "GET", "GET"):
        ask(method, f"/artifacts/{rendering}/{file}", ref="tiny/a@1")
    digest = ask("GET", "/bundles", ref="tiny/a@1").json()["links"][0]["files"][0]["digest"]
    ask("GET", f"/blobs/{digest}", ref="tiny/a@1")
    ask("GET", "/revisions", ref="tiny/a@1")
    ask("GET", "/resolve", ref="tiny/a@1")
    assert used(library, "tiny/a@1") == {"fetch": 1}
    assert used(library, "tiny/a@2") == {}


@pytest.mark.parametrize(
    ("said", "plan", "bundle"),
    [
        (None, {"fetch": 1}, {}),
        ("fetch", {"fetch": 1}, {"fetch": 1}),
        ("vllm", {"vllm": 1}, {"vllm": 1}),
        ("none", {}, {}),
        ("hub", {"fetch": 1}, {}),  # said by the views alone
        ("later", {"fetch": 1}, {}),
    ],
)
def test_a_client_says_what_it_is(
    library: Library, ask: Any, said: str | None, plan: Mapping[str, int], bundle: Mapping[str, int]
) -> None:
    ask("GET", "/artifacts", use=said, ref="tiny/a@1")
    ask("GET", "/bundles", use=said, ref="tiny/a@2")
    assert (used(library, "tiny/a@1"), used(library, "tiny/a@2")) == (plan, bundle)


def test_a_refused_request_is_no_use(service: str, library: Library) -> None:
    asked = [("tiny/a@9", "reader"), ("tiny/b", "reader of a"), ("tiny/b", "nobody"), ("tiny/b", "revoked")]
    for ref, who in asked:
        answer = httpx.get(service + API + "/artifacts", params={"ref": ref}, headers=library.headers(who))
        assert answer.status_code >= 400
    library.registry.retract("tiny/b", reason="bad")
    answer = httpx.get(service + API + "/artifacts", params={"ref": "tiny/b"}, headers=library.headers("reader"))
    assert answer.status_code == 410
    assert used(library, "tiny/b") == {}


def test_a_reader_is_told_how_many_and_not_who(library: Library, ask: Any) -> None:
    for who in ("reader", "reader", "writer", "reader of a"):
        ask("GET", "/artifacts", who=who, ref="tiny/a@1")
    used(library, "tiny/a@1")
    answers = [ask("GET", "/revisions", who=who, ref="tiny/a@1").json() for who in ("admin", "reader of a")]
    for answer in answers:
        assert (answer["use"]["uses"], answer["use"]["tokens"]) == (4, 3)
        assert set(answer["use"]) == {"last_used_at", "uses", "by_interface", "tokens"}
    assert "tok_" not in str([answer["use"] for answer in answers])


def test_no_token_is_told_of_uses_children_or_tags_outside_of_its_scopes(library: Library, ask: Any) -> None:
    registry = library.registry
    outside = registry.create_token("admin", name="x", scopes=["tiny/a/x"]).secret
    library = Library(library.shelf, {**library.secrets, "admin of x": outside})
    for ref in ("tiny/a@1", "tiny/a/x@1", "tiny/b/y@1"):
        ask("GET", "/artifacts", who="admin", ref=ref)
    used(library, "tiny/a@1")
    base = ask("GET", "/revisions", who="reader of a", ref="tiny").json()
    assert [one["path"] for one in base["children"]["adapters"]] == ["tiny/a"]
    assert base["children"]["total"] == 1
    whole = ask("GET", "/revisions", who="admin", ref="tiny").json()
    assert [one["path"] for one in whole["children"]["adapters"]] == ["tiny/a", "tiny/b"]
    listed = ask("DELETE", "/tree", who="writer of a", path="tiny/a", dry_run="true").json()
    assert [one["reference"] for one in listed["used"]] == ["tiny/a@1", "tiny/a/x@1"]
    assert listed["use"]["uses"] == 2


def test_a_dry_run_changes_nothing_and_lists_what_the_retraction_does(library: Library, ask: Any, service: str) -> None:
    for ref in ("tiny/a@1", "tiny/a/x@1", "tiny/a/x@1"):
        ask("GET", "/artifacts", ref=ref)
    used(library, "tiny/a@1")
    before = library.registry.events()
    headers = library.headers("writer of a")

    def retract(**body: object) -> dict[str, Any]:
        answer = httpx.post(service + API + "/retractions", json={"ref": "tiny/a@1", **body}, headers=headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    listed = retract(dry_run=True)
    assert (listed["done"], listed["reason"]) == (False, "")
    assert library.registry.events() == before
    assert library.registry.show("tiny/a/x").revision.retracted is None  # type: ignore[union-attr]
    done = retract(reason="bad")
    assert done["done"]
    assert {**listed, "done": True, "reason": "bad"} == done
    assert [(one["reference"], one["uses"]) for one in done["used"]] == [("tiny/a@1", 1), ("tiny/a/x@1", 2)]
    assert (done["use"]["uses"], done["use"]["tokens"]) == (3, 1)
    refused = httpx.post(
        service + API + "/retractions",
        json={"ref": "tiny/a@1", "dry_run": True},
        headers=library.headers("reader of a"),
    )
    assert refused.status_code == 403


def test_the_client_names_its_interface_only_where_a_use_begins(service: str, library: Library) -> None:
    sent: list[str | None] = []
    transport = Transport(service, library.secrets["reader"], interface="vllm")
    transport._http.event_hooks = {"request": [lambda request: sent.append(request.headers.get(USE_HEADER))]}
    transport.get("/whoami", dict[str, Any])
    transport.get("/artifacts", dict[str, Any], use=transport.interface, ref="tiny/a@1")
    transport.close()
    assert sent == [None, "vllm"]
