"""Reads over HTTP: how many statements each is; rights hold at the next request; routes are found as by the routers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Cookie, Depends, FastAPI, Header, Query
from fastapi.dependencies.models import Dependant

from registry.app import service_app
from registry.http.payloads import Call, call_of
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


def called_by_fastapi(dependant: Dependant) -> Iterator[tuple[object, ...]]:
    """What FastAPI calls for a route, and with which parameters: an independent reading of the same signatures."""
    for place, fields in (("address", dependant.path_params), ("query", dependant.query_params)):
        yield from ((dependant.call, place, field.alias) for field in fields)
    assert not dependant.header_params
    assert not dependant.cookie_params
    assert not dependant.body_params
    yield dependant.call, "request", dependant.request_param_name
    for needed in dependant.dependencies:
        yield from called_by_fastapi(needed)


def called_here(call: Call) -> Iterator[tuple[object, ...]]:
    for one in call.parameters:
        yield call.function, "address" if one.in_address else "query", one.alias
    yield call.function, "request", call.request
    for _, needed in call.needs:
        yield from called_here(needed)


def test_a_read_calls_what_fastapi_would(library: Library) -> None:
    """A dependency that is left out may be the one that looks at rights."""
    reads = [
        route for route in service_app(library.registry).state.routes if isinstance(route, ReadRoute) and route.reads
    ]
    assert len(reads) > 40
    for route in reads:
        assert set(called_here(call_of(route))) == set(called_by_fastapi(route.dependant)), route.path_format


def _guard() -> None:
    pass


def _by_header(x: Annotated[str, Header()]) -> str:
    return x


def _by_cookie(x: Annotated[str, Cookie()]) -> str:
    return x


def _by_default(x: str = Query("all")) -> str:
    return x


def _guarded_by_default(x: None = Depends(_guard)) -> str:
    return str(x)


@pytest.mark.parametrize("endpoint", [_by_header, _by_cookie, _by_default, _guarded_by_default])
def test_a_read_that_says_what_would_not_be_done_is_refused(endpoint: Any) -> None:
    with pytest.raises(AssertionError, match="in its annotation"):
        call_of(ReadRoute("/x", endpoint, methods=["GET"]))


def test_a_guard_beside_the_signature_is_refused_and_never_passed_over() -> None:
    with pytest.raises(AssertionError, match="dependencies beside its signature"):
        ReadRoute("/x", lambda: "x", methods=["GET"], dependencies=[Depends(_guard)])
