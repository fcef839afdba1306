"""What another Hub should never answer: an error of ours each time, in one sentence, and no turn is lost by it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from threading import Event
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import zstandard
from fastapi import FastAPI

from registry.app import service_app
from registry.hub.upstream import FILES, Upstream
from tests.hub.conftest import assert_missing
from tests.kit.library import Library, fill, running, with_tokens
from tests.kit.odd_server import OddServer, answer, resolving

FILE: Final = "/Some-Org/Net/resolve/main/config.json"
TREE: Final = "/api/models/Some-Org/Net/tree/main"
JSON: Final = "Content-Type: application/json"
OF_ONE: Final = 16
BOMB: Final = zstandard.compress(b"\0" * (64 << 20))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """With the base model ``other``, which the token ``reader of a`` does not see."""
    shelf = fill(tmp_path_factory.mktemp("library"))
    yield with_tokens(shelf)
    shelf.close()


@pytest.fixture(scope="module")
def odd() -> Iterator[OddServer]:
    with OddServer(lambda _: []) as server:
        yield server


@pytest.fixture(scope="module")
def app(library: Library, odd: OddServer) -> FastAPI:
    return service_app(library.registry, upstream=odd.url)


@pytest.fixture(scope="module")
def service(app: FastAPI) -> Iterator[str]:
    with running(app) as address:
        yield address


@pytest.fixture
def client(service: str, library: Library) -> Iterator[httpx.Client]:
    with by(service, library, "reader") as found:
        yield found


def by(service: str, library: Library, who: str) -> httpx.Client:
    return httpx.Client(base_url=f"{service}/hf", headers=library.headers(who), timeout=120)


def guard_of(app: FastAPI) -> Any:
    found: Upstream = app.state.upstream
    return found.guard


def moved(place: str) -> bytes:
    return answer(302, f"Location: {place}")


ODD_FILES: Final[dict[str, tuple[bytes, str]]] = {
    "304": (answer(304, 'ETag: "x"'), "answers 304"),
    "101": (answer(101, "Upgrade: x", "Connection: upgrade"), "can't be reached"),
    "204": (b"HTTP/1.1 204 Odd\r\n\r\n", "answers 204"),
    "206": (answer(206, "Content-Range: bytes 0-1/2", body=b"{}"), "answers 206"),
    "300": (answer(300, "Location: http://localhost/x"), "answers 300"),
    "no-place": (answer(302), "answers 302"),
    "port": (moved("http://127.0.0.1:99999/x"), "host or port"),
    "port-0": (moved("http://localhost:0/x"), "host or port"),
    "no-port": (moved("http://localhost:x/x"), "malformed"),
    "bracket": (moved("http://[::1/x"), "malformed"),
    "no-host": (moved("http:///x"), "host or port"),
    "file": (moved("file:///etc/passwd"), "neither http nor https"),
    "gopher": (moved("gopher://localhost:70/x"), "neither http nor https"),
    "user": (moved("http://user:word@localhost/x"), "user name"),
    "letters": (moved("http://localhost/\N{SNOWMAN}"), "letters that none has"),
    "gzip": (answer(200, "Content-Encoding: gzip", body=b"x"), "packs"),
    "zstd": (answer(200, "Content-Encoding: zstd", body=BOMB), "packs"),
    "twice": (answer(200, "Content-Encoding: identity, ZSTD", body=BOMB), "packs"),
    "headers": (answer(200, *(f"X-{number}: {'x' * 1000}" for number in range(300))), "can't be reached"),
    "header": (answer(200, f"X-Large: {'x' * 300_000}"), "can't be reached"),
    "endless": (answer(200, "Content-Length: 999999999999999999"), "more than"),
    "lengths": (answer(200, "Content-Length: 1", "Content-Length: 2", body=b"xx"), "can't be reached"),
    "packed": (answer(200, "Transfer-Encoding: gzip, chunked"), "can't be reached"),
    "no-http": (b"SSH-2.0-OpenSSH_9.6\r\n", "can't be reached"),
    "nothing": (b"", "can't be reached"),
}
ODD_METADATA: Final[dict[str, tuple[bytes, str]]] = {
    "304": (answer(304, JSON), "no document"),
    "204": (b"HTTP/1.1 204 Odd\r\nContent-Type: application/json\r\n\r\n", "no document"),
    "206": (answer(206, JSON, body=b"[]"), "no document"),
    "moved": (moved("http://127.0.0.1:99999/x"), "host or port"),
    "zstd": (answer(200, JSON, "Content-Encoding: zstd", body=BOMB), "packs"),
    "chunks": (answer(200, JSON, "Transfer-Encoding: chunked") + b"zzz\r\n", "can't be reached"),
}


@pytest.mark.parametrize("name", list(ODD_FILES))
def test_odd_files(client: httpx.Client, odd: OddServer, app: FastAPI, name: str) -> None:
    said, why = ODD_FILES[name]
    odd.talk = lambda _: [said]
    for method in ("GET", "HEAD"):
        sentence = assert_missing(client.request(method, FILE), None, status=503)
        assert f"127.0.0.1:{odd.port}" in sentence
        assert why in sentence
    assert guard_of(app).under_way == 0


@pytest.mark.parametrize("name", list(ODD_METADATA))
def test_odd_metadata(client: httpx.Client, odd: OddServer, app: FastAPI, name: str) -> None:
    said, why = ODD_METADATA[name]
    odd.talk = lambda _: [said]
    sentence = assert_missing(client.get(TREE), None, status=503)
    assert f"127.0.0.1:{odd.port}" in sentence
    assert why in sentence
    assert guard_of(app).under_way == 0


def test_headers_of_any_letters(client: httpx.Client, odd: OddServer) -> None:
    odd.talk = lambda _: [answer(200, JSON, "X-Repo-Commit: \N{SNOWMAN}", body=b"[]")]
    assert (client.get(TREE).status_code, client.get(TREE).headers["x-repo-commit"]) == (200, "?")
    odd.talk = lambda _: [answer(404, "X-Error-Code: EntryNotFound", "X-Repo-Commit: \N{SNOWMAN}")]
    assert_missing(client.get(FILE), "EntryNotFound", commit="?")


RANGES: Final = [
    ("bytes=2-", "bytes 2-5/6", True), ("bytes=2-", "bytes 2-5/*", True), ("bytes=2-5", "bytes 2-5/9", True),
    ("bytes=-4", "bytes 2-5/6", True), ("bytes=2-", "bytes 0-3/6", False), ("bytes=2-4", "bytes 2-5/9", False),
    ("bytes=-4", "bytes 0-3/6", False), ("bytes=-3", "bytes 2-5/6", False), ("bytes=2-", "bytes 5-2/6", False),
    ("bytes=2-", "bytes 2-6/9", False), ("bytes=2-", "", False), ("bytes=-", "bytes 2-5/6", False),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "told", "fits"), RANGES)
def test_a_part_is_the_part(client: httpx.Client, odd: OddServer, asked: str, told: str, fits: bool) -> None:
    """Bytes at a wrong place would be another file."""
    odd.talk = lambda _: [answer(206, f"Content-Range: {told}", body=b"abcd")]
    found = client.get(FILE, headers={"Range": asked})
    assert (found.status_code, found.content == b"abcd") == ((206, True) if fits else (503, False))


def test_a_part_that_is_not_there(client: httpx.Client, odd: OddServer) -> None:
    odd.talk = lambda _: [answer(416, "Content-Range: bytes */2", body=b"not that")]
    found = client.get(FILE, headers={"Range": "bytes=9-"})
    assert (found.status_code, found.content) == (416, b"")
    assert (found.headers["content-range"], found.headers["content-length"]) == ("bytes */2", "0")
    odd.talk = lambda _: [answer(200, "Content-Range: bytes 0-1/9", body=b"{}")]
    assert "content-range" not in client.get(FILE, headers={"Range": "bytes=0-1,3-4"}).headers
    assert "range:" not in odd.seen[-1].lower()


def test_it_is_asked_for_plain_bytes(client: httpx.Client, odd: OddServer) -> None:
    """Whatever the client would take."""
    odd.talk = lambda _: [answer(200, JSON, body=b"[]")]
    for address in (FILE, TREE):
        assert client.get(address, headers={"Accept-Encoding": "gzip, zstd"}).status_code == 200
        assert "accept-encoding: identity\r\n" in odd.seen[-1].lower()


LINKS: Final = {
    "/hf/../../api/v1/tokens": None, "/api/models/../../../api/v1/tokens": None, "/../x": None,
    "/api/models/a/%2e%2e/%2e%2e/tokens": None, "/api/models/Some-Org/Net/tree/main/../../../../../x": None,
    "/api/models/Some-Org/Net/tree/main/%2e%2e/%2e%2e/x": None, "/api/whoami-v2": None, "/": None,
    "/Some-Org/Net/resolve/main/x": None, "//evil.example/x": None, "@evil.example/": None, ":1/x": None, "": None,
    "/api/datasets/Some-Org/Net/tree/main?cursor=2": None, "/api/models/Some-Org/Net/refs?cursor=2": None,
    "/api/models/Some-Org/Net/tree/main?cursor=\N{SNOWMAN}": None,
    f"/api/models/Some-Org/Net/tree/main?cursor={'x' * 5000}": None,
    "/api/models/Some-Org/Net/tree/main?cursor=2": "tree/main?cursor=2",
    "/api/models/Some-Org/Net/tree/0123?cursor=2#there": "tree/0123?cursor=2",
    "/api/models/New-Org/Name/tree/main/sub%2Ffolder?cursor=2&limit=3": "tree/main/sub%2Ffolder?cursor=2&limit=3",
}  # fmt: skip


@pytest.mark.parametrize("link", list(LINKS), ids=lambda link: link[:60])
def test_links_stay_in_the_view(client: httpx.Client, odd: OddServer, link: str) -> None:
    """And at the repo: what has another name there is gone on with by the name that was asked for."""
    odd.talk = lambda _: [answer(200, JSON, f'Link: <{odd.url}{link}>; rel="next"', body=b"[]")]
    found, below = client.get(TREE), LINKS[link]
    if below is None:
        assert "next page" in assert_missing(found, None, status=503)
    else:
        assert found.links["next"]["url"] == f"{client.base_url}api/models/Some-Org/Net/{below}"


STATES: Final = {
    "none": answer(404, "X-Error-Code: RepoNotFound", "X-Error-Message: Repository not found"),
    "closed": answer(401, "X-Error-Message: Invalid username or password."),
    "forbidden": answer(403),
    "busy": answer(429, "X-Error-Message: Slow down"),
    "broken": answer(500),
    "away": b"",
}
ASKED: Final = [
    ("GET", "/api/models/{}"), ("HEAD", "/api/models/{}"), ("GET", "/api/models/{}/tree/main"),
    ("GET", "/api/models/{}/refs"), ("GET", "/api/models/{}/revision/main"), ("GET", "/api/datasets/{}"),
    ("GET", "/{}/resolve/main/config.json"), ("HEAD", "/{}/resolve/main/config.json"), ("GET", "/{}/raw/main/x"),
    ("GET", "/datasets/{}/resolve/main/x"), ("GET", "/api/models/{}/tree/main?limit=none"),
    ("POST", "/api/models/{}/paths-info/main"),
]  # fmt: skip


@pytest.mark.parametrize("state", list(STATES))
def test_what_is_hidden_is_as_if_it_were_not_there(service: str, library: Library, odd: OddServer, state: str) -> None:
    """Whatever the other Hub answers: it is asked as often, and never by the name."""
    odd.talk = lambda head: [answer(400) if "limit=none" in head else STATES[state]]
    some = (("other/x", "nobody/x"), ("OTHER/c", "NOBODY/c"), ("other", "nobody"), ("other/_", "no/_"))
    asked = ASKED if state == "none" else [("GET", "/api/models/{}"), ("GET", "/{}/resolve/main/config.json")]
    with by(service, library, "reader of a") as scoped:
        for pair in some[: 4 if state == "none" else 1]:
            for method, address in asked:
                told, calls = [], []
                for name in pair:
                    odd.seen.clear()
                    body = {"paths": ["x"]} if method == "POST" else None
                    told.append(_without_name(scoped.request(method, address.format(name), json=body), name))
                    calls.append(len(odd.seen))
                    assert not any("other" in head.lower() for head in odd.seen)
                assert told[0] == told[1], (method, address, pair)
                assert calls[0] == calls[1], (method, address, pair)


def _without_name(found: httpx.Response, name: str) -> tuple[int, dict[str, str], str]:
    headers = {
        key: value.replace(name, "N") for key, value in found.headers.items()
        if key not in {"date", "x-request-id", "content-length"}
    }  # fmt: skip
    return found.status_code, headers, found.text.replace(name, "N")


def test_what_is_seen_here_asks_nobody(client: httpx.Client, odd: OddServer) -> None:
    """A new repo below a base model is pushed to whether the other Hub is there or not."""
    odd.seen.clear()
    odd.talk = lambda _: [b""]
    for name in ("tiny/new", "TINY/new"):
        assert "tiny" in assert_missing(client.get(f"/api/models/{name}"), "RepoNotFound").lower()
    assert odd.seen == []


def test_slow_files_of_one_token_leave_turns_to_others(
    service: str, library: Library, odd: OddServer, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are turns for all; and one that goes away gives its turn back."""
    monkeypatch.setattr("registry.outgoing.guard._WAIT", 0.2)
    go_on = Event()

    def slow(head: str) -> Iterator[bytes]:
        yield answer(200, "Content-Length: 2") + b"{"
        if "/slow/" in head:
            go_on.wait(100)
        yield b"}"

    odd.talk = slow
    with ExitStack() as until, by(service, library, "reader") as greedy, by(service, library, "admin") as other:
        until.callback(go_on.set)
        streams = [until.enter_context(greedy.stream("GET", f"/slow/{one}/resolve/main/x")) for one in range(OF_ONE)]
        assert {one.status_code for one in streams} == {200}
        refused = greedy.get("/fast/16/resolve/main/x")
        assert "This token has too many requests" in assert_missing(refused, None, status=429)
        assert refused.headers["retry-after"] == "1"
        assert other.get("/fast/17/resolve/main/x").content == b"{}"
        _wait(lambda: guard_of(app).under_way == OF_ONE)
        streams[0].close()
        _wait(lambda: guard_of(app).under_way < OF_ONE)
        assert greedy.get("/fast/18/resolve/main/x").content == b"{}"
    _wait(lambda: guard_of(app).under_way == 0)


def test_who_leaves_before_it_answers_leaves_no_turn_behind(
    service: str, library: Library, odd: OddServer, app: FastAPI
) -> None:
    here, go_on = Event(), Event()

    def late(_: str) -> Iterator[bytes]:
        here.set()
        go_on.wait(100)
        yield answer(200, body=b"{}")

    odd.talk = late
    place = urlsplit(service)
    lines = [f"{name}: {value}" for name, value in library.headers("reader").items()]
    with socket.create_connection((place.hostname, place.port or 0), timeout=120) as wire:
        wire.sendall("\r\n".join([f"GET /hf{FILE} HTTP/1.1", "Host: x", *lines, "", ""]).encode())
        assert here.wait(100)
        assert guard_of(app).under_way == 1
    go_on.set()
    _wait(lambda: guard_of(app).under_way == 0)


def test_a_file_that_comes_too_slowly_is_aborted(
    client: httpx.Client,
    odd: OddServer,
    app: FastAPI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is no fault of ours: the log has it as what it is."""
    monkeypatch.setattr("registry.hub.upstream.FILES", replace(FILES, grace=0.2, rate=1e9))
    go_on = Event()

    def slow(_: str) -> Iterator[bytes]:
        yield answer(200, "Content-Length: 2") + b"{"
        go_on.wait(100)

    odd.talk = slow
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(FILE)
    go_on.set()
    _wait(lambda: guard_of(app).under_way == 0)
    assert "which REGISTRY_UPSTREAM names, sends less than 1000000000 bytes a second" in caplog.text
    assert "unexpected error" not in caplog.text


def test_an_operator_reads_in_the_log_what_nobody_else_is_told(
    library: Library, odd: OddServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads to a machine behind the service: which, and that it can be listed."""
    resolving(monkeypatch, {"hub.test": ["127.0.0.1"]})
    odd.talk = lambda _: [answer(200, JSON, body=b"[]")]
    odd.seen.clear()
    app = service_app(library.registry, upstream=f"http://hub.test:{odd.port}")
    with running(app) as service, by(service, library, "reader") as client:
        sentence = assert_missing(client.get(TREE), None, status=503)
        assert "REGISTRY_OUTGOING_NETWORKS" in sentence
        assert "127.0.0.1" not in sentence
        assert "hub.test is 127.0.0.1 (loopback)" in caplog.text
        assert odd.seen == []
        app.state.upstream = Upstream(f"http://hub.test:{odd.port}", ["127.0.0.0/8"])
        assert client.get(TREE).json() == []


def _wait(done: Any) -> None:
    """Until it is so; what never is fails."""
    until = time.monotonic() + 100
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)
