"""The frame around every route: bounds, problems, ids, log lines; on a real server, with clients that misbehave."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from starlette.middleware import Middleware

from registry.errors import CODES, RegistryError, UnavailableError
from registry.http.context import RequestContext
from registry.http.errors import MalformedError, install
from registry.http.limits import BoundsMiddleware, Limits
from registry.http.metrics import Metrics
from registry.http.middleware import RequestMiddleware
from registry.http.payloads import JsonBody, check_depth, check_keys
from registry.hub.views import HUB
from registry.schemas.protocol import API, PROTOCOL
from registry.schemas.requests import TagRequest
from tests.kit.library import Lines, assert_problem, running

LIMITS = replace(Limits(), document=10_000, headers=20, header_bytes=4_000, query=500)
HURRIED = replace(LIMITS, head_time=0.5, body_grace=0.5, body_rate=1 << 20, answer_time=0.5)


def toy(limits: Limits = LIMITS) -> FastAPI:
    metrics = Metrics(dict)
    app = FastAPI(
        redirect_slashes=False,
        middleware=[
            Middleware(RequestMiddleware, limits=limits, metrics=metrics),
            Middleware(BoundsMiddleware, limits=limits),
        ],
    )
    app.state.metrics = metrics

    async def refused(request: Request, error: RegistryError) -> None:
        del request, error

    install(app, refused, [HUB])

    @app.post(f"{API}/echo/{{name}}")
    def echo(name: str, asked: Annotated[TagRequest, Depends(JsonBody(TagRequest))]) -> TagRequest:
        return asked

    @app.get("/hf/fails")
    @app.get(f"{API}/fails")
    def fails(code: str | None = None) -> None:
        if code is not None:
            raise UnavailableError("It can't be.", code=code)
        secret = "what nobody may see"
        raise ZeroDivisionError(secret)

    @app.get("/hf/sleeps")
    @app.get(f"{API}/sleeps")
    def sleeps(seconds: float) -> str:
        time.sleep(seconds)
        return "awake"

    return app


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(toy(), LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def hurried_url() -> Iterator[str]:
    """A service without patience, for who is too slow for it; a busy machine may make anybody too slow."""
    with running(toy(HURRIED), HURRIED) as address:
        yield address


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=120) as client:
        yield client


GOOD = {"ref": "llama/support@3", "tag": "prod"}


def raw(url: str, *pieces: bytes, pause: float = 0.0, shut: bool = False) -> bytes:
    """What a server answers to bytes that are sent as they are, until it closes."""
    address = urlsplit(url)
    answer = b""
    with socket.create_connection((address.hostname, address.port or 0), timeout=120) as wire:
        for piece in pieces:
            try:
                wire.sendall(piece)
            except OSError:
                break
            time.sleep(pause)
        if shut:
            wire.shutdown(socket.SHUT_WR)
        while True:
            try:
                received = wire.recv(65536)
            except ConnectionResetError:
                break
            if not received:
                break
            answer += received
    return answer


def told(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    assert b"x-registry-protocol: %d" % PROTOCOL in head.lower()
    return int(head.split()[1]), json.loads(body)


def test_a_good_request_is_answered_with_the_headers_of_every_answer(http: httpx.Client) -> None:
    answer = http.post(f"{API}/echo/x", json=GOOD)
    assert (answer.status_code, answer.json()) == (200, {**GOOD, "expected": None})
    assert answer.headers["x-registry-protocol"] == str(PROTOCOL)
    assert answer.headers["x-registry-version"]
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_request_id_is_taken_over_when_it_is_well_formed(http: httpx.Client) -> None:
    given = {"X-Request-Id": "trace-0123456789.ab"}
    assert http.get("/", headers=given).headers["x-request-id"] == "trace-0123456789.ab"
    for bad in ("short", "x" * 65, 'with"quotes"', "two words in it"):
        assert http.get("/", headers={"X-Request-Id": bad}).headers["x-request-id"] != bad


def test_what_no_route_answers_is_a_problem(http: httpx.Client) -> None:
    assert_problem(http.get("/nowhere"), 404, "not_found")
    assert_problem(http.get(f"{API}/echo/x/"), 404, "not_found")
    answer = http.get(f"{API}/echo/x")
    assert_problem(answer, 405, "usage")
    assert answer.headers["allow"] == "POST"
    assert_problem(http.request("BREW", f"{API}/fails"), 405, "usage")


def test_a_bug_is_told_without_its_inside_and_logged_with_it(http: httpx.Client, log: Lines) -> None:
    answer = http.get(f"{API}/fails")
    problem = assert_problem(answer, 500, "unexpected")
    assert "nobody may see" not in answer.text
    (line,) = [line for line in log.all if line["event"] == "unexpected error"]
    assert line["request"] == problem["request"]
    assert "ZeroDivisionError" in line["traceback"]


@pytest.mark.parametrize("code", ["unavailable", "busy", "disk_full", "schema_older", "numerics"])
def test_what_passes_says_when_to_try_again(http: httpx.Client, code: str) -> None:
    assert assert_problem(http.get(f"{API}/fails", params={"code": code}), 503, code)["title"] == CODES[code]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"ref": 3, "tag": "prod"}',
        '{"ref": "llama@1", "tag": "prod", "more": 1}',
        '{"ref": "\\ud800", "tag": "prod"}',
        '{"ref": "llama@1", "tag": NaN}',
    ],
)
def test_a_body_that_breaks_the_schema_is_a_problem(http: httpx.Client, body: str) -> None:
    answer = http.post(f"{API}/echo/x", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "usage")


@pytest.mark.parametrize(
    "body",
    [
        '{"ref": "llama@1", "tag": "prod", "ref": "llama@2"}',
        '{"ref": "llama@1", "tag": "prod", "tag": "prod"}',
        '{"ref": "llama@1", "tag": "prod", "t\\u0061g": "other"}',
    ],
)
def test_a_key_that_is_given_twice_is_refused(http: httpx.Client, body: str) -> None:
    answer = http.post(f"{API}/echo/x", content=body, headers={"Content-Type": "application/json"})
    assert "twice" in assert_problem(answer, 422, "usage")["detail"]


def test_keys_are_looked_at_in_every_object_and_nothing_else() -> None:
    for text in ('[{"a": {"b": 1, "b": 1}}]', '{"a": [{}, {"": 1, "": 2}]}', '{"a": NaN, "a": 1e999}'):
        with pytest.raises(MalformedError):
            check_keys(text.encode())
    for text in ('[{"a": 1}, {"a": 1}]', '{"a": {"a": "a"}}', '{"n": ' + "9" * 5000 + "}", '{"a": 1, "a"', "\xff"):
        check_keys(text.encode("latin-1"))


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Range", "If-Range"])
def test_a_header_that_has_one_value_is_given_once(http: httpx.Client, name: str) -> None:
    for values in (("a", "b"), ("a", "a")):
        answer = http.get(f"{API}/fails", headers=[(name, value) for value in values])
        assert f"{name} is given 2 times" in assert_problem(answer, 400, "usage")["detail"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_that_a_web_page_could_send_unasked_is_refused(http: httpx.Client, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert_problem(http.post(f"{API}/echo/x", content=json.dumps(GOOD), headers=headers), 422, "usage")


def test_a_body_that_is_too_large_is_refused(http: httpx.Client) -> None:
    fits = {"ref": "x" * (LIMITS.document - len(json.dumps({"ref": "", "tag": "prod"}))), "tag": "prod"}
    assert http.post(f"{API}/echo/x", json=fits).status_code in {200, 422}
    answer = http.post(f"{API}/echo/x", json={"ref": "x" * LIMITS.document, "tag": "prod"})
    assert_problem(answer, 413, "too_large")
    assert answer.headers["connection"] == "close"


def test_a_body_of_unknown_length_is_counted(http: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            yield b'"' + b"x" * 1000

    answer = http.post(f"{API}/echo/x", content=pieces(), headers={"Content-Type": "application/json"})
    assert_problem(answer, 413, "too_large")


def test_a_huge_body_is_refused_and_the_answer_arrives(url: str) -> None:
    """The client still sends when it is refused; it must be able to read why."""
    with httpx.Client(base_url=url) as client:
        answer = client.post(f"{API}/echo/x", content=b"x" * (4 << 20), headers={"Content-Type": "application/json"})
    assert_problem(answer, 413, "too_large")


def test_who_reads_only_after_sending_everything_can_read_too(url: str) -> None:
    """A connection that is closed with bytes unread is reset, and the answer with it."""
    head = f"POST {API}/echo/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n"
    status, problem = told(raw(url, head.encode(), *[bytes(100_000)] * 20, pause=0.01))
    assert (status, problem["code"]) == (413, "too_large")


def test_a_body_where_none_belongs_is_refused(http: httpx.Client) -> None:
    assert_problem(http.request("GET", f"{API}/fails", content=b"hello"), 413, "too_large")


def test_json_that_is_too_deep_is_refused(http: httpx.Client) -> None:
    for opened, closed in (("[", "]"), ('{"a":', "}")):
        text = opened * 65 + "1" + closed * 65
        answer = http.post(f"{API}/echo/x", content=text, headers={"Content-Type": "application/json"})
        assert_problem(answer, 413, "too_large")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 64 + "]" * 64,
        json.dumps(["[" * 500, '\\"[[[[' * 100, "\\" * 7 + "{" * 99]),
        json.dumps([[]] * 5000),
        json.dumps("{" * 100 + '"[' * 100),
    ],
)
def test_json_that_is_wide_is_not_deep(text: str) -> None:
    check_depth(text.encode())


@pytest.mark.parametrize("text", ["[" * 65 + "]" * 65, "[" * 1_000_000, '{"a":[' * 40 + "1" + "]}" * 40])
def test_json_that_is_deep_is_seen(text: str) -> None:
    with pytest.raises(UnavailableError):
        check_depth(text.encode())


def test_depth_is_counted_in_time_that_grows_with_the_length() -> None:
    """An open string full of escaped quotes: a pattern that goes back would never come to its end here."""
    check_depth(b'"' + b'\\"' * 500_000 + b"[" * 70 + b"]")


def test_too_many_headers_and_too_long_ones_are_refused(http: httpx.Client, url: str) -> None:
    assert_problem(http.get("/", headers={f"X-{n}": "1" for n in range(30)}), 413, "too_large")
    assert_problem(http.get("/", headers={"X-Long": "x" * 5000}), 413, "too_large")
    status, problem = told(raw(url, b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n"))
    assert (status, problem["code"]) == (413, "too_large")


def test_a_query_that_is_too_long_is_refused(http: httpx.Client) -> None:
    assert_problem(http.get("/", params={"text": "x" * 600}), 413, "too_large")


def test_what_is_not_http_is_told_so(url: str) -> None:
    for words in (
        b"HELLO\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ):
        status, problem = told(raw(url, words))
        assert (status, problem["code"]) == (400, "usage")


def test_a_client_that_trickles_its_headers_is_cut(hurried_url: str) -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\n"
    status, problem = told(raw(hurried_url, *[head[n : n + 1] for n in range(len(head))], pause=0.05))
    assert (status, problem["code"]) == (408, "too_slow")


def test_a_client_that_says_nothing_is_cut(hurried_url: str) -> None:
    assert raw(hurried_url) == b""


def announced(length: int, request: str) -> str:
    """The head of a request with a body, and with an id by which its line in the log is found."""
    lines = ["Host: x", f"X-Request-Id: {request}", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([f"POST {API}/echo/x HTTP/1.1", *lines, "", ""])


@pytest.mark.slow
def test_a_client_that_trickles_its_body_is_cut(hurried_url: str, log: Lines) -> None:
    head = announced(900, "trickled")
    status, problem = told(raw(hurried_url, head.encode(), *[b" "] * 40, pause=0.05))
    assert (status, problem["code"]) == (408, "too_slow")
    assert log.of_request("trickled")["status"] == 408


def test_a_body_that_is_cut_is_never_worked_on(url: str, log: Lines) -> None:
    answer = raw(url, (announced(900, "cut-body") + json.dumps(GOOD)).encode(), shut=True)
    assert b"200" not in answer.partition(b"\r\n")[0]
    assert log.of_request("cut-body")["status"] != 200


def test_a_route_that_takes_too_long_is_answered_in_time(hurried_url: str) -> None:
    with httpx.Client(base_url=hurried_url, timeout=120) as http:
        assert_problem(http.get(f"{API}/sleeps", params={"seconds": 2}), 503, "unavailable")
        answers = (http.get(f"{API}/sleeps", params={"seconds": 0}).json() for _ in range(100))
        assert "awake" in answers  # the next one goes through: on a busy machine perhaps not the very next


def test_below_a_view_whatever_the_frame_says_has_the_form_of_the_hub(http: httpx.Client, hurried_url: str) -> None:
    headers = {f"X-{n}": "1" for n in range(30)}
    for answer, status, text in (
        (http.get("/hf/fails"), 500, "Unexpected error in the service"),
        (httpx.get(f"{hurried_url}/hf/sleeps", params={"seconds": 2}), 503, "did not answer within"),
        (http.get("/hf/nowhere"), 404, "There is no route GET /hf/nowhere"),
        (http.request("BREW", "/hf/fails"), 405, "BREW is not allowed"),
        (http.get("/hf-lora", headers=headers), 413, "headers, at most 20 are accepted"),
        (http.request("DELETE", "/hf/x", content=bytes(LIMITS.document + 1)), 413, f"at most {LIMITS.document} are"),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert answer.json() == {"error": answer.headers["x-error-message"]}
        assert text in answer.json()["error"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers.get("retry-after") == ("5" if status == 503 else None)
    assert_problem(http.get("/hfx/nowhere", headers=headers), 413, "too_large")


def test_a_body_where_clients_of_the_hub_have_one_is_taken(http: httpx.Client) -> None:
    """They delete and change by a document; the API does by parameters."""
    for method in ("DELETE", "PATCH"):
        assert http.request(method, "/hf/x", json={"name": "x"}).status_code == 404
        assert_problem(http.request(method, f"{API}/fails", json={"name": "x"}), 413, "too_large")


def test_every_request_is_one_line_without_what_it_carried(http: httpx.Client, log: Lines) -> None:
    headers = {"Authorization": "Bearer reg_verysecret", "X-Request-Id": "request-0001"}
    http.get(f"{API}/sleeps", params={"seconds": 0, "X-Amz-Signature": "signed"}, headers=headers)
    # by its id: an answer that the service gave up on, in the test before, is noted when its thread ends, maybe now
    line = log.of_request("request-0001")
    assert set(line) == {
        "time", "level", "event", "request", "method", "route", "status", "ms", "received", "sent", "token", "source",
    }  # fmt: skip
    assert (line["method"], line["route"], line["status"]) == ("GET", f"{API}/sleeps", 200)
    assert line["source"] == "127.0.0.1"
    assert line["sent"] == len('"awake"')
    assert "verysecret" not in str(log.lines)
    assert "signed" not in str(log.lines)


def test_requests_are_counted_by_route_and_status(log: Lines) -> None:
    app = toy()
    with running(app, LIMITS) as url, httpx.Client(base_url=url) as client:
        for name in ("a", "b"):
            client.post(f"{API}/echo/{name}", json=GOOD)
        client.get("/nowhere")
        client.request("BREW", "/nowhere")
    text = app.state.metrics.text().decode()
    assert f'registry_requests_total{{method="POST",route="{API}/echo/{{name}}",status="200"}} 2.0' in text
    assert 'registry_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'registry_requests_total{method="other",route="none",status="404"} 1.0' in text
    assert f'registry_request_seconds_count{{route="{API}/echo/{{name}}"}} 2.0' in text


def test_bytes_are_counted_in_both_directions() -> None:
    metrics = Metrics(dict)
    metrics.note("PUT", "/parts", RequestContext("one", received=7, sent=3, status=204, kind="part"))
    metrics.note("POST", "/publishes", RequestContext("two", received=9, status=201))  # JSON is not counted
    counted = re.findall(
        r'^registry_body_bytes_total{direction="(.*)",kind="part"} (.*)$', metrics.text().decode(), re.MULTILINE
    )
    assert counted == [("in", "7.0"), ("out", "3.0")]
