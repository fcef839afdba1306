"""Reads over HTTP: how many statements each is; rights hold at the next request; routes are found as by the routers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from registry.app import service_app
from registry.http.reads import ReadDispatch, ReadRoute
from registry.schemas.protocol import API
from tests.kit.library import Library
from tests.kit.statements import statements

COUNTS = {
    ("GET", f"{API}/resolve?ref=tiny/a"): 2,  # the token, and the lineage
    ("GET", f"{API}/resolve?ref=tiny/a@prod"): 2,
    ("GET", f"{API}/resolve?ref=tiny/a/x@1"): 2,
    ("GET", f"{API}/resolve?ref=tiny"): 2,
    ("GET", f"{API}/revisions?ref=tiny/a@prod"): 13,
    ("GET", f"{API}/revisions?ref=tiny/a/x@1"): 13,
    ("GET", "/hf-published/api/models/tiny/a"): 5,  # the token, repo, lineage, tags with metrics, card
    ("GET", "/hf-published/api/models/tiny/a.x"): 5,
    ("HEAD", "/hf-published/tiny/a.x/resolve/main/adapter_config.json"): 3,  # the token, repo, lineage
}


@pytest.mark.parametrize(("method", "address"), COUNTS)
def test_how_many_statements_a_read_is(admin: httpx.Client, service: str, method: str, address: str) -> None:
    admin.request(method, service + address)  # notes the use of the token, at most once a minute
    with statements() as sent:
        assert admin.request(method, service + address).status_code in {200, 307}
    assert len(sent) == COUNTS[method, address], sent


def test_a_revoked_token_and_a_retraction_hold_at_the_next_request(admin: httpx.Client, library: Library) -> None:
    made = library.registry.create_token("reader", name="for a moment")
    headers = {"Authorization": f"Bearer {made.secret}"}
    assert admin.get("/resolve?ref=tiny/a", headers=headers).status_code == 200
    library.registry.revoke_token(made.token.id)
    assert admin.get("/resolve?ref=tiny/a", headers=headers).status_code == 401
    before = admin.get("/resolve?ref=tiny/a@prod").json()["reference"]
    library.registry.tag("tiny/a@2", "prod")
    assert admin.get("/resolve?ref=tiny/a@prod").json()["reference"] == "tiny/a@2"
    library.registry.tag(before, "prod")


def found_by(app: FastAPI, method: str, path: str) -> tuple[str | None, dict[str, Any]]:
    scope = {"type": "http", "method": method, "path": path, "app": app}
    found = ReadDispatch(app)._find(scope)
    return (None, {}) if found is None else (found[0][0].path_format, dict(found[1]))


def test_the_dispatch_finds_what_the_routers_would(library: Library) -> None:
    app = service_app(library.registry)
    for route in app.state.routes:
        path = route.path_format.format(**dict.fromkeys(route.param_convertors, "name"))
        method = next(iter(sorted(route.methods or ())))
        expected = route.path_format if isinstance(route, ReadRoute) and route.reads else None
        assert found_by(app, method, path)[0] == expected, (method, path)
    place = "/hf/{namespace}/{name}/resolve/{revision}/{path}"
    given = {"namespace": "tiny", "name": "a.x", "revision": "main", "path": "a/b\n.json"}
    assert found_by(app, "HEAD", "/hf/tiny/a.x/resolve/main/a/b\n.json") == (place, given)
    for method, path in (("HEAD", "/api/v1/resolve"), ("POST", "/api/v1/resolve"), ("GET", "/api/v1/no"), ("GET", "x")):
        assert found_by(app, method, path) == (None, {})
