"""What browsers send for pages of other sites changes nothing, at any address, and what others send goes on.

The routes are those of the app: a new one is tried without being named here. Requests are given to the app as the
server would, without a socket.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import pytest
from fastapi import FastAPI

from registry.app import service_app
from registry.http.limits import Limits
from registry.http.origins import SECRET_ADDRESSES
from registry.http.payloads import call_of
from registry.schemas.protocol import API, VIEWS
from tests.kit.forged import refused, state, writes
from tests.kit.library import assert_problem, fill, running
from tests.kit.shelf import Shelf
from tests.kit.statements import statements

PORT: Final = 8123
HOST: Final = f"127.0.0.1:{PORT}"
OWN: Final = f"http://{HOST}"
READING: Final = {"GET", "HEAD", "OPTIONS"}
METHODS: Final = ("POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "post")
TYPES: Final = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json",
    "application/x-ndjson",
    "application/octet-stream",
    None,
)
FOREIGN: Final[Mapping[str, Mapping[str, str]]] = {
    "fetch of another site": {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    "another port": {"origin": f"http://127.0.0.1:{PORT + 1}", "sec-fetch-site": "same-site"},
    "a browser of before Sec-Fetch-Site": {"origin": f"http://localhost:{PORT + 1}"},
    "another scheme": {"origin": f"https://127.0.0.1:{PORT}"},
    "a page in a sandbox": {"origin": "null"},
    "no origin, cross-site": {"sec-fetch-site": "cross-site"},
    "no origin, same-site": {"sec-fetch-site": "same-site"},
    "a site that is no word": {"sec-fetch-site": "cross-site, same-origin"},
    "our port under another of our names": {"origin": f"http://localhost:{PORT}", "sec-fetch-site": "cross-site"},
    "a name like ours": {"origin": f"http://127.0.0.1:{PORT}.evil.example"},
    "nothing": {"origin": ""},
    "a token that is none": {"origin": "null", "authorization": "Basic eDp5"},
}
WAYS: Final = [*itertools.product(("another port",), TYPES), *((who, "text/plain") for who in FOREIGN)]
"""All types of bodies, and all that is foreign."""
OURS: Final[Mapping[str, Mapping[str, str]]] = {
    "curl": {},
    "our page": {"origin": OWN, "sec-fetch-site": "same-origin"},
    "our page by another name": {"origin": f"http://localhost:{PORT}"},
    "our page by another number": {"origin": f"http://[::1]:{PORT}"},
    "typed": {"sec-fetch-site": "none"},
}
FILLED: Final = {"base": "tiny", "view": "hf", "namespace": "tiny", "name": "a", "revision": "main", "number": "1"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


async def ask(
    app: FastAPI,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    query: str = "",
    host: str = HOST,
) -> Answer:
    """What the app answers."""
    sent: list[dict[str, Any]] = []
    given = {"host": host, **headers, **({"content-length": str(len(body))} if body else {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", PORT),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent[1:]))


def changing(app: FastAPI) -> list[tuple[str, str]]:
    """Each method and address of each route that is not only read; and what has no route at all."""
    found = set()
    for route in app.state.routes:
        path = route.path_format
        for name in route.param_convertors:
            path = path.replace(f"{{{name}}}", FILLED.get(name, "tiny/a"))
        found |= {(method, path) for method in route.methods or () if method not in READING}
    found |= {(method, path) for method in METHODS for path in ("/", "/none", f"{API}/none", "/metrics", "/healthz")}
    return sorted(found)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A registry without tokens, open to its machine."""
    made = fill(tmp_path_factory.mktemp("open"), hidden=False)
    yield made
    made.close()


def test_pages_of_other_sites_change_nothing_at_any_address_with_any_type_of_body(shelf: Shelf) -> None:
    """Of all faces, known methods and unknown ones, in the form of errors that each face has."""
    app, before = service_app(shelf.registry, "open"), state(shelf.registry)
    every = changing(app)
    assert {path.split("/")[1] for _, path in every} >= {"api", "sign-in", "sign-out", *VIEWS}
    assert len(every) > 120

    async def try_all() -> None:
        for (method, path), (who, kind) in itertools.product(every, WAYS):
            if any(one.method == method and one.is_one(path) for one in SECRET_ADDRESSES):
                continue
            headers = {**FOREIGN[who], **({} if kind is None else {"content-type": kind}), "accept": "*/*"}
            body = b'{"ref": "tiny/a", "tag": "mine", "role": "admin"}' if method in {"POST", "PUT"} else b""
            answer = await ask(app, method, path, headers, body)
            what = (method, path, kind, who, answer)
            assert answer.status == 403, what
            assert not any(name.startswith("access-control") for name in answer.headers), what
            if path.split("/")[1] in VIEWS:
                assert "(cross_site)" in answer.headers["x-error-message"], what
                assert answer.headers["x-error-message"] == json.loads(answer.body)["error"], what
                assert answer.headers["x-hf-warning"].startswith("cross_site"), what
            else:
                assert json.loads(answer.body)["code"] == "cross_site", what
        page = await ask(app, "POST", "/sign-out", {"origin": "null", "accept": "text/html"})
        assert (page.status, page.headers["content-type"]) == (403, "text/html; charset=utf-8")
        assert b"cross_site" in page.body
        assert "set-cookie" not in page.headers

    asyncio.run(try_all())
    assert state(shelf.registry) == before


ASKED: Final = {"ref": "tiny/a/x", "path": "tiny/a", "a": "tiny/a@1", "b": "tiny/a@2", "kind": "merged", "name": "tiny"}
ASKED_MORE: Final = {"base": "tiny", "engine": "peft", "deltas": "true", "fidelity": "bf16"}
READ: Final = {"reference": "tiny/a/x", "kind": "merged", "path": "model.safetensors"}
KEPT: Final = {
    ("GET", f"{API}/statistics"): {"events", "notices", "sketches", "statistic_values", "statistics"},
    ("GET", f"{API}/checks"): {"engine_answers"},
}
"""What reading writes: figures and answers that were computed of what is there, and what was noticed meanwhile."""


def test_reading_writes_nothing_but_what_it_computed(shelf: Shelf) -> None:
    """Whoever asks: an image of a page is a request, too. A new route that reads and writes has to be named here."""
    app, written = service_app(shelf.registry, "open"), dict[tuple[str, str], set[str]]()

    async def try_all() -> None:
        for route in app.state.routes:
            path, known = route.path_format, call_of(route).query_names
            for name in route.param_convertors:
                path = path.replace(f"{{{name}}}", READ.get(name, FILLED.get(name, "tiny/a")))
            query = urlencode({name: value for name, value in (ASKED | ASKED_MORE).items() if name in known})
            for method in sorted(READING & (route.methods or set())):
                with statements("INSERT", "UPDATE", "DELETE") as sent:
                    answer = await ask(app, method, path, FOREIGN["fetch of another site"], query=query)
                assert answer.status != 500, (method, path, answer)
                tables = {
                    re.sub(r'^(INSERT INTO|UPDATE|DELETE FROM) "?(\w+).*', r"\2", one, flags=re.DOTALL)
                    for one, _ in sent
                }
                if tables:
                    written.setdefault((method, route.path_format), set()).update(tables)

    asyncio.run(try_all())
    unknown = {place: tables - KEPT.get(place, set()) for place, tables in written.items()}
    assert not any(unknown.values()), unknown


def at(url: str, said: Mapping[str, str]) -> dict[str, str]:
    """Headers, with the port that the service has."""
    return {name: text.replace(str(PORT), url.rpartition(":")[2]) for name, text in said.items()}


def test_what_would_publish_is_refused_to_pages_of_other_sites(shelf: Shelf) -> None:
    before, asked = state(shelf.registry), writes(shelf, 3)
    with running(service_app(shelf.registry, "open")) as url, httpx.Client(base_url=url, timeout=60) as client:
        for who, (method, path, body) in itertools.product(FOREIGN, asked):
            headers = {**at(url, FOREIGN[who]), "content-type": "text/plain"}
            answer = client.request(method, path, content=body, headers=headers)
            assert answer.status_code == 403, (who, path, answer.text)
    assert state(shelf.registry) == before
    assert "POST /hf/api/models/tiny/a/commit/main" in {one["tried"] for one in refused(shelf.registry)}


def test_programs_and_our_own_pages_change_what_they_did(shelf: Shelf) -> None:
    with running(service_app(shelf.registry, "open")) as url, httpx.Client(base_url=url, timeout=60) as client:
        for number, who in enumerate(OURS, 11):
            for method, path, body in writes(shelf, number):
                kind = "application/json" if path.startswith(API) else "text/plain"
                answer = client.request(
                    method, path, content=body, headers={**at(url, OURS[who]), "content-type": kind}
                )
                assert answer.status_code in (200, 201), (who, path, answer.text)
            tags = {tag for one in shelf.registry.log("tiny/a").revisions for tag in one.tags}
            assert f"mine{number}" in tags
    assert len(shelf.registry.log("tiny/a").revisions) == 2 + len(OURS)


def test_a_name_that_was_led_here_changes_nothing(shelf: Shelf) -> None:
    """DNS rebinding: the page and the service have one origin then, and the name is what gives it away."""
    app, before = service_app(shelf.registry, "open"), state(shelf.registry)
    said = {"origin": f"http://evil.example:{PORT}", "sec-fetch-site": "same-origin", "content-type": "text/plain"}

    async def try_all() -> None:
        for method, path, body in writes(shelf, 7):
            assert (await ask(app, method, path, said, body, host=f"evil.example:{PORT}")).status == 403
        for method, path in changing(app):
            await ask(app, method, path, said, b"{}", host=f"evil.example:{PORT}")

    asyncio.run(try_all())
    assert state(shelf.registry) == before


def test_no_browser_is_allowed_to_send_a_token_for_another_site(shelf: Shelf) -> None:
    """It asks before that, by OPTIONS; and a token that nobody knows opens nothing."""
    app, before = service_app(shelf.registry, "open"), state(shelf.registry)
    asked = {
        "origin": "https://evil.example",
        "sec-fetch-site": "cross-site",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }

    async def try_all() -> None:
        for method, path in changing(app):
            answer = await ask(app, "OPTIONS", path, asked)
            assert answer.status >= 400, (path, answer)
            assert not any(name.startswith("access-control") for name in answer.headers), (path, answer)
            said = {"origin": "null", "authorization": "Bearer reg_none", "content-type": "application/json"}
            await ask(app, method, path, said, b"{}")

    asyncio.run(try_all())
    assert state(shelf.registry) == before


def test_an_address_with_a_secret_takes_what_comes_with_it(shelf: Shelf) -> None:
    """Only these are free, and each only with its secret."""
    (secret,) = SECRET_ADDRESSES
    digest = "5f" * 32
    said = FOREIGN["fetch of another site"]
    with running(service_app(shelf.registry, "open")) as url, httpx.Client(base_url=url, timeout=60) as client:
        asked = {"operation": "upload", "objects": [{"oid": digest, "size": 9}]}
        begun = client.post("/hf/tiny/a.git/info/lfs/objects/batch", json=asked)
        href = begun.json()["objects"][0]["actions"]["upload"]["href"].removeprefix(url)
        assert secret.is_one(href)
        assert client.put(href, content=b"123456789", headers=said).status_code == 200
        wrong = href.replace(href.split("/")[-2], "0" * 32)
        assert client.put(wrong, content=b"123456789", headers=said).status_code == 422
        for method, path in (
            ("POST", href),
            ("DELETE", href),
            ("PUT", f"{href}/x"),
            ("PUT", f"/api{href}"),
            ("POST", href.replace("parts", "complete").rpartition("/")[0]),
        ):
            answer = client.request(method, path, headers=said)
            assert answer.status_code == 403, (method, path, answer.text)


def test_behind_a_proxy_our_pages_are_those_of_the_public_address(shelf: Shelf) -> None:
    """And what the browser shows where a trusted proxy says so; not this machine, which is another one there."""

    def status(url: str, **said: str) -> int:
        headers = {name.replace("_", "-"): value for name, value in said.items()}
        return httpx.post(f"{url}/sign-out", headers=headers).status_code

    allowed, team = 422, "https://registry.team"  # no form: it came as far as the route
    with running(service_app(shelf.registry, public_url=f"{team}/adapters")) as url:
        assert status(url, Origin=team) == allowed
        assert status(url, Origin=url) == allowed
        assert status(url, Origin=team, Host="127.0.0.1:9") == allowed
        assert status(url, Origin="http://127.0.0.1:9", Host="registry.team:9") == 403
        assert status(url, Origin=url, Host="registry.team") == 403
        assert status(url, Origin="https://registry.team:8443") == 403
        assert status(url, Origin=f"{team}/adapters") == 403
    with running(service_app(shelf.registry)) as url:
        assert status(url, Origin=team, Host="registry.team", X_Forwarded_Proto="https") == 403  # by whom?
        assert status(url, Origin="http://registry.team", Host="registry.team") == allowed
    proxied = service_app(shelf.registry)
    with running(proxied, Limits(), trusted_proxies=["127.0.0.0/8"]) as url:
        assert status(url, Origin=team, Host="registry.team", X_Forwarded_Proto="https") == allowed
        assert status(url, Origin="http://registry.team", Host="registry.team", X_Forwarded_Proto="https") == 403
        assert status(url, Origin="https://evil.example", Host="registry.team", X_Forwarded_Proto="https") == 403


def test_a_page_that_goes_on_for_days_fills_no_database_and_hides_no_other_denial(shelf: Shelf) -> None:
    before = len(refused(shelf.registry))
    app = service_app(shelf.registry, "open", Limits(denials_of_one=5))

    async def try_all() -> None:
        for number in range(200):
            headers = {"origin": f"https://evil{number}.example", "content-type": "text/plain"}
            await ask(app, "POST", f"/hf/api/models/tiny/a/commit/{number}%00", headers)
        for _ in range(3):
            await ask(app, "GET", f"{API}/tree", {"authorization": "Bearer reg_guessed"})

    asyncio.run(try_all())
    noted = refused(shelf.registry)
    noted = noted[: len(noted) - before]
    codes = [one["code"] for one in noted]
    assert 5 <= codes.count("cross_site") <= 5 + 3  # and one a minute
    assert codes.count("bad_token") == 3
    first = noted[-1]
    assert (first["tried"], "https://evil0.example" in first["why"]) == ("POST /hf/api/models/tiny/a/commit/0%00", True)


def test_what_another_site_only_reads_is_no_use(shelf: Shelf) -> None:
    """A page can't read what comes back, but where nobody shows a token it would be counted as this machine's."""
    noted: list[str] = []
    loaded: list[str] = []  # which is what the parent of a push may be known by
    uses = shelf.registry.deployment.uses
    assert uses is not None
    with (
        pytest.MonkeyPatch.context() as patch,
        running(service_app(shelf.registry, "open")) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        commit = client.get("/hf/api/models/tiny/a.x/revision/main").json()["sha"]
        patch.setattr(uses, "note", lambda reference, *_: noted.append(reference))
        patch.setattr(uses.loads, "note", lambda reference, *_, **__: loaded.append(reference))
        for path in (
            f"/hf/tiny/a.x/resolve/{commit}/model.safetensors",
            f"{API}/artifacts?ref=tiny/a/x&kind=merged",
            "/download/merged/tiny/a/x/-/model.safetensors",
        ):
            for said in FOREIGN["fetch of another site"], {"sec-fetch-site": "same-site"}:
                assert client.get(path, headers=said).status_code == 200
                assert noted == loaded == []
            assert client.get(path).status_code == 200
            assert noted == ["tiny/a/x@1"]
            assert loaded == noted * path.startswith("/hf/")
            noted.clear()
            loaded.clear()


def test_a_problem_says_what_to_do(shelf: Shelf) -> None:
    with running(service_app(shelf.registry, "open")) as url:
        answer = httpx.put(f"{url}{API}/tags", json={}, headers={"Origin": "https://evil.example"})
        told = assert_problem(answer, 403, "cross_site")
    assert "'https://evil.example'" in told["detail"]
    assert "REGISTRY_PUBLIC_URL" in told["detail"]
