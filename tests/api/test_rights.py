"""Who may do what over HTTP."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.api.openapi import json_routes
from registry.app import service_app
from registry.operations.operation import Operation
from registry.operations.table import DROP_MATERIALISATION, OPERATIONS
from registry.rights import ROLES
from registry.schemas.protocol import API
from registry.services.jobs import Runner
from tests.api.rights_table import IN, OUT, TABLE, Row
from tests.kit.library import SCOPE, Library, assert_problem, fill, running, with_tokens

ACTORS = ["nobody", "revoked", *ROLES, *(f"{role} of a" for role in ROLES)]


def test_every_route_is_in_the_table(library: Library) -> None:
    routes = {
        (method, re.sub(r":path}", "}", route.path_format))
        for route, method in json_routes(service_app(library.registry))
    }
    assert routes == set(TABLE)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_what_scopes_have_to_cover_is_what_the_row_says(operation: Operation[Any, Any]) -> None:
    """Of what changes something: reading is narrowed by what a session sees."""
    where = TABLE[operation.method, API + operation.address].where
    if operation.right.role != "reader" and operation is not DROP_MATERIALISATION:  # by an id or by a path
        assert where in {"any": {"any"}, "path": {"path", "all"}, "all": {"all"}}[operation.right.where]


def expected(row: Row, method: str, who: str, path: str) -> frozenset[int]:
    if row.role is None:
        return row.good
    if who in {"nobody", "revoked"}:
        return frozenset({401})
    role, scoped = who.removesuffix(" of a"), who.endswith(" of a")
    covered = not scoped or row.where == "any" or (row.where == "path" and path == IN)
    if ROLES.index(role) < ROLES.index(row.role):
        return frozenset({403})
    if covered:
        return row.good
    return frozenset({404}) if row.where == "path" and method in {"GET", "HEAD"} else frozenset({403})


@pytest.mark.parametrize(("method", "route"), sorted(TABLE))
def test_a_route_answers_each_as_the_table_says(
    service: str, library: Library, method: str, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Runner.run_until  # waits for two seconds before it answers that a job goes on: on a busy machine it does
    monkeypatch.setattr(Runner, "run_until", lambda self, deployment, job, _: run(self, deployment, job, 120.0))
    row = TABLE[method, route]
    with httpx.Client(base_url=service, timeout=120) as client:
        for path in (IN, OUT):
            for who in ACTORS:
                parts = row.prepare(library.registry, path)
                address = route.replace("{", "{0[").replace("}", "]}").format(parts)
                answer = client.request(
                    method,
                    address,
                    params={name: value.replace("{path}", path) for name, value in row.params.items()},
                    content=body(row, path, method),
                    headers={**library.headers(who), "Content-Type": "application/json"},
                )
                assert answer.status_code in expected(row, method, who, path), (who, path, answer.text)
                if answer.status_code >= 400 and method != "HEAD":
                    assert_problem(answer, answer.status_code, answer.json()["code"])


def body(row: Row, path: str, method: str) -> str | None:
    if row.body is None:
        return "abc" if method == "PUT" else None
    return json.dumps(row.body).replace("{path}", path)


# What a token may not see does not exist for it.


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A reader of `tiny/a` at a registry with more than that, and at one with nothing else."""
    root = tmp_path_factory.mktemp("two")
    more, less = (with_tokens(fill(root / name, hidden=hidden)) for name, hidden in (("more", True), ("less", False)))
    more.registry.materialise("tiny/b")
    more.registry.rename("tiny/b", "bee")
    more.registry.rename_base("other", "another")
    for library in (more, less):
        library.registry.materialise("tiny/a/x")
    with (
        running(service_app(more.registry)) as here,
        running(service_app(less.registry)) as there,
        httpx.Client(base_url=here + API, headers=more.headers("reader of a")) as first,
        httpx.Client(base_url=there + API, headers=less.headers("reader of a")) as second,
    ):
        yield first, second
    more.shelf.close()
    less.shelf.close()


def comparable(answer: httpx.Response) -> tuple[int, Any]:
    """Status and body without what differs between any two registries: times, ids, addresses, uses written by now."""
    text = re.sub(r'"use":\{[^{}]*(\{[^{}]*\})?[^{}]*\}', "USE", answer.text)
    text = re.sub(r'(?<="next":")[^"]+', lambda cursor: b64decode(cursor[0] + "==", altchars="-_").decode(), text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "TIME", text)
    text = re.sub(r"tok_\w+", "TOKEN", text)
    text = re.sub(r"mat_\w+", "MATERIALISATION", text)
    text = text.replace(str(answer.url.copy_with(raw_path=b"/")).rstrip("/"), "URL")
    text = text.replace(answer.headers["x-request-id"], "REQUEST")
    return answer.status_code, text


QUESTIONS = [
    ("/bases", {}),
    ("/bases", {"old_names": "true"}),
    ("/tree", {}),
    ("/tree", {"old_names": "true"}),
    ("/search", {"old_names": "true"}),
    ("/tree", {"path": "tiny"}),
    ("/search", {}),
    ("/search", {"tag": "prod"}),
    ("/search", {"text": "b"}),
    ("/search", {"base": "other"}),
    ("/search", {"base": "nothing"}),
    ("/events", {}),
    ("/events", {"limit": "1"}),
    ("/events", {"kind": "publish", "limit": "1"}),
    ("/events", {"actor": "nobody"}),
    ("/events", {"after": "2001-01-01T00:00:00Z", "limit": "2"}),
    *(("/diff", {"a": a, "b": b}) for a, b in (
        ("tiny/a@1", "tiny/a@2"), ("tiny/a", "tiny/a/x"), ("tiny/a", "tiny/b"), ("tiny/b", "tiny/a"),
        ("tiny/a", "other/c"),
    )),
    *(("/diff", {"a": a, "b": b, "deltas": "true"}) for a, b in (
        ("tiny/a@1", "tiny/a@2"), ("tiny/a", "tiny/a/x"), ("tiny/a", "tiny/b"), ("tiny/a", "other/c"),
    )),
    *(("/diff/children", {"path": path}) for path in ("tiny", "tiny/a", "tiny/b", "other")),
    ("/protected-tags", {"base": "other"}),
    ("/protected-tags", {"base": "tiny"}),
    ("/whoami", {}),
    ("/tokens", {}),
    ("/materialisations", {}),
    ("/materialisations", {"limit": "1"}),
    *((route, {name: value}) for route, name in (
        ("/tree", "path"), ("/log", "path"), ("/log/deleted", "path"), ("/events", "path"),
        ("/revisions", "ref"), ("/resolve", "ref"), ("/bundles", "ref"),
        ("/subtree", "path"), ("/artifacts", "ref"), ("/materialisations", "ref"),
    ) for value in (
        "tiny/b", "tiny/b/y", "tiny/bb", "tiny/b/yy", "other", "other/c", "othr", "tiny/b@1", "tiny/b@9", "tiny/b@prod",
        "tiny/bee", "another", "tiny/a", "tiny/a/x", "tiny/aa", "tiny/a@9", "tiny/a/x@1", "tiny",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("route", "params"), QUESTIONS)
def test_what_is_hidden_changes_no_answer(
    two: tuple[httpx.Client, httpx.Client], route: str, params: dict[str, str]
) -> None:
    more, less = (comparable(client.get(route, params=params)) for client in two)
    assert more == less
    assert "other/c" not in more[1] or params.get("ref", params.get("path")) == "other/c"


ABOUT_A_PATH = [one for one, row in sorted(TABLE.items()) if "{path}" in f"{row.params}{row.body}"]


@pytest.mark.parametrize(("method", "route"), ABOUT_A_PATH)
def test_what_is_hidden_is_as_if_it_were_absent_for_each_route(
    service: str, library: Library, method: str, route: str
) -> None:
    """Also where it was tagged, has a rule, or is combined, in a reference as in a path: ``tiny/q`` is not there."""
    row = TABLE[method, route]
    address = route.replace("{", "{0[").replace("}", "]}").format(row.prepare(library.registry, OUT))
    for who in ("reader of a", "writer of a", "admin of a"):
        told = []
        for path in (OUT, "tiny/q"):
            answer = httpx.request(
                method,
                service + address,
                params={name: value.replace("{path}", path) for name, value in row.params.items()},
                content=body(row, path, method),
                headers={**library.headers(who), "Content-Type": "application/json"},
            )
            status, text = comparable(answer)
            told.append((status, text.replace(path, "PATH"), sorted(set(answer.headers) - {"content-length"})))
        assert told[0] == told[1]
        assert told[0][0] in {403, 404, 422}


def test_pages_hold_everything_once(admin: httpx.Client) -> None:
    for route in ("/bases", "/log", "/search", "/events", "/tokens"):
        params = {"path": "tiny/a"} if route == "/log" else {}
        whole, gathered = (_gathered(admin, route, params, limit) for limit in (500, 2))
        if route == "/tokens":
            whole, gathered = ([one["id"] for one in many] for many in (whole, gathered))
        assert gathered == whole
        assert len(gathered) > 1


def _gathered(admin: httpx.Client, route: str, params: dict[str, str], limit: int) -> list[Any]:
    """All items of a listing, page by page: how many events the library has by now depends on what ran before."""
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = admin.get(route, params={**params, "limit": str(limit), **cursor}).json()
        assert len(page["items"]) <= limit
        found += page["items"]
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


def test_a_cursor_from_elsewhere_is_refused(admin: httpx.Client) -> None:
    cursor = admin.get("/events", params={"limit": 1}).json()["next"]
    assert_problem(admin.get("/search", params={"cursor": cursor}), 422, "usage")
    assert_problem(admin.get("/log", params={"path": "tiny/a", "cursor": "!!"}), 422, "usage")


def test_scopes_are_shown(service: str, library: Library) -> None:
    told = httpx.get(f"{service}{API}/whoami", headers=library.headers("writer of a")).json()
    assert (told["role"], told["scopes"], told["url"]) == ("writer", [SCOPE], service)
    assert told["service_version"] == told["version"]


def test_the_folder_of_the_service_is_nobodys_business(service: str, library: Library, tmp_path: Path) -> None:
    for route in ("/readyz", f"{API}/whoami", f"{API}/tree"):
        assert str(library.shelf.root) not in httpx.get(service + route, headers=library.headers("reader")).text


def test_a_parameter_that_no_route_knows_is_refused(admin: httpx.Client) -> None:
    told = assert_problem(admin.get("/search", params={"ranks": "<=16"}), 422, "usage")
    assert "'ranks'" in told["detail"]
    assert "rank" in told["detail"]
    assert_problem(admin.get("/log", params=[("path", "tiny/a"), ("path", "tiny/b")]), 422, "usage")
    assert_problem(admin.get("/whoami", params={"x": "1"}), 422, "usage")


NEW = ("moved", "small")


@pytest.mark.slow_on("writer of a")
@pytest.mark.parametrize("who", ["reader of a", "writer of a", "admin of a"])
@pytest.mark.slow_on("reader of a", "admin of a")
def test_a_token_of_an_old_path_keeps_what_it_had_and_gets_nothing_more(
    tmp_path_factory: pytest.TempPathFactory, who: str
) -> None:
    library = with_tokens(fill(tmp_path_factory.mktemp("renamed")))
    asked = [question for question in QUESTIONS if question[0] != "/events"]
    with (
        running(service_app(library.registry)) as url,
        httpx.Client(base_url=url + API, headers=library.headers(who)) as client,
    ):
        before = [comparable(client.get(route, params=params)) for route, params in asked]
        library.registry.rename("tiny/a", "moved")
        library.registry.rename_base("tiny", "small")
        assert [comparable(client.get(route, params=params)) for route, params in asked] == before
        told = [comparable(client.get(route, params={"ref": ref})) for route in ("/revisions", "/resolve", "/bundles")
                for ref in ("tiny/a", "tiny/a/x", "tiny/moved", "small/a", "small")]  # fmt: skip
        told += [comparable(client.get("/events")), comparable(client.get("/usage"))]
        hub = client.get(f"{url}/hf/api/models/tiny/a")
        assert hub.status_code == 200
        assert "x-hf-warning" not in hub.headers
        publish = client.post(
            "/publishes/plan", json={"path": "tiny/a/new", "config": "e30=", "header": "e30=", "files": []}
        )
        told.append((publish.status_code, publish.text))
        for _, answer in told:
            assert not [name for name in NEW if name in re.sub(r"no (adapter|base model) [a-z/]+", "", answer)]
    library.shelf.close()
