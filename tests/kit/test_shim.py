"""The faulty proxy does what it says, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.kit.shim import Fault, Shim, flip_first_byte

GIVEN = bytes(range(256)) * 2000


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(GIVEN)

    def do_PUT(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("X-Host", self.headers["Host"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def shim() -> Iterator[Shim]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    with Shim(f"http://127.0.0.1:{server.server_address[1]}") as shim:
        yield shim
    server.shutdown()
    thread.join()
    server.server_close()


def test_without_faults_messages_pass_as_they_are(shim: Shim) -> None:
    answer = httpx.put(f"{shim.url}/a?b=c", content=GIVEN)
    assert answer.content == GIVEN
    assert answer.headers["X-Host"] == shim.url.removeprefix("http://")
    [seen] = shim.seen()
    assert (seen.method, seen.target, seen.status) == ("PUT", "/a?b=c", 200)
    assert (seen.sent, seen.received) == (len(GIVEN), len(GIVEN))


def test_an_answer_of_its_own_and_faults_that_are_used_up(shim: Shim) -> None:
    shim.faults.append(Fault(method="GET", target="^/a", times=1, status=503, headers={"Retry-After": "1"}, body=b"no"))
    with httpx.Client() as client:
        answers = [client.get(f"{shim.url}/{path}") for path in ("b", "a", "a")]
    assert [answer.status_code for answer in answers] == [200, 503, 200]
    assert answers[1].headers["Retry-After"] == "1"
    assert answers[1].content == b"no"
    assert [seen.status for seen in shim.seen(target="^/a")] == [503, 200]


def test_bodies_are_cut_and_changed(shim: Shim) -> None:
    shim.faults = [Fault(target="cut-answer", cut_answer=1000), Fault(target="cut-request", cut_request=1000)]
    shim.faults += [Fault(target="lost", lose_answer=True), Fault(target="answer", change_answer=flip_first_byte)]
    shim.faults += [Fault(target="request", change_request=flip_first_byte)]
    for path, kind in (("cut-answer", httpx.RemoteProtocolError), ("lost", httpx.RemoteProtocolError)):
        with pytest.raises(kind):
            httpx.get(f"{shim.url}/{path}")
    with pytest.raises(httpx.TransportError):
        httpx.put(f"{shim.url}/cut-request", content=GIVEN)
    shim.faults.append(Fault(target="did", skip=1, times=1, lose_answer=True, status=503, body=b"no"))
    told = [httpx.put(f"{shim.url}/did", content=GIVEN) for _ in range(3)]
    assert [(one.status_code, len(one.content)) for one in told] == [(200, len(GIVEN)), (503, 2), (200, len(GIVEN))]
    assert [one.sent for one in shim.seen(target="did")] == [len(GIVEN)] * 3
    assert httpx.get(f"{shim.url}/answer").content == b"\x01" + GIVEN[1:]
    assert httpx.put(f"{shim.url}/request", content=GIVEN).content == b"\x01" + GIVEN[1:]
