"""A request whose bytes two programs could read differently is refused, and its connection closed (RFC 9112).

Every message here is followed by a second request: where a proxy and the service disagree on the end of the first, the
second is smuggled past the proxy. So nothing but one refusal may come back.

One table from errors to statuses.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator

import h11
import pytest

from registry import errors
from registry.errors import CODES, RegistryError
from registry.http.connection import StrictConnection
from registry.http.errors import BY_CODE, STATUSES, headers_of, problem, status_of
from registry.http.limits import Limits
from registry.schemas.protocol import API
from tests.http.test_middleware import GOOD, raw, told, toy
from tests.kit.library import running

LINE = f"POST {API}/echo/x HTTP/1.1\r\n"
HOST = "Host: x\r\nContent-Type: application/json\r\n"
BODY = json.dumps(GOOD)
CHUNKED = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
LENGTH = f"Content-Length: {len(BODY)}\r\n"
SMUGGLED = f"GET {API}/sleeps?seconds=0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    limits = Limits(head_time=2)
    with running(toy(limits), limits) as address:
        yield address


def request(headers: str, body: str, line: str = LINE, host: str = HOST) -> bytes:
    return (line + host + headers + "\r\n" + body).encode("latin-1")


CHUNKS = "Transfer-Encoding: chunked\r\n"
AMBIGUOUS = {
    "both lengths": request(LENGTH + CHUNKS, CHUNKED),
    "both lengths, the other way round": request(CHUNKS + "content-LENGTH: 3\r\n", CHUNKED),
    "two lengths": request(LENGTH + "Content-Length: 4\r\n", BODY),
    "the same length twice": request(LENGTH * 2, BODY),
    "a list of lengths": request(f"Content-Length: {len(BODY)}, {len(BODY)}\r\n", BODY),
    "a length with a sign": request(f"Content-Length: +{len(BODY)}\r\n", BODY),
    "a length in other digits": request("Content-Length: \xb2\r\n", BODY),
    "no length": request("Content-Length:\r\n", BODY),
    "chunked twice": request(CHUNKS * 2, CHUNKED),
    "another coding": request("Transfer-Encoding: gzip, chunked\r\n", CHUNKED),
    "a coding with a control character": request("Transfer-Encoding: \x0bchunked\r\n", CHUNKED),
    "a coding that HTTP/1.0 lacks": request(CHUNKS, CHUNKED, LINE.replace("1.1", "1.0")),
    "another version": request(LENGTH, BODY, LINE.replace("1.1", "2.0")),
    "a bare LF after a header": request(f"Content-Length: {len(BODY)}\n", BODY),
    "a bare LF after the request line": request(LENGTH, BODY, LINE.replace("\r\n", "\n")),
    "a head of bare LFs": request(LENGTH, BODY).replace(b"\r\n", b"\n"),
    "a head that a bare LF ends": request(f"Content-Length: {len(BODY)}\r\n\n", BODY),
    "a bare LF in a value": request("X-Id: 1\nContent-Length: 3\r\n" + LENGTH, BODY),
    "a bare CR in a value": request("X-Id: 1\rContent-Length: 3\r\n" + LENGTH, BODY),
    "CR CR LF": request(f"Content-Length: {len(BODY)}\r\r\n", BODY),
    "a NUL in a value": request("X-Id: a\0b\r\n" + LENGTH, BODY),
    "a control character in a value": request("X-Id: a\x01b\r\n" + LENGTH, BODY),
    "a continued header": request("X-Id: a\r\n b\r\n" + LENGTH, BODY),
    "a continued length": request(f"Content-Length:\r\n\t{len(BODY)}\r\n", BODY),
    "a blank before the first header": request(LENGTH, BODY, host=" " + HOST),
    "a blank before the colon": request(f"Content-Length : {len(BODY)}\r\n", BODY),
    "a blank before the name": request(f" Content-Length: {len(BODY)}\r\n", BODY),
    "a name that is no token": request("Content[Length]: 3\r\n" + LENGTH, BODY),
    "two hosts": request("Host: y\r\n" + LENGTH, BODY),
    "no host": request(LENGTH, BODY, host="Content-Type: application/json\r\n"),
    "two blanks in the request line": request(LENGTH, BODY, LINE.replace(" HTTP", "  HTTP")),
    "a tab in the request line": request(LENGTH, BODY, LINE.replace(" HTTP", "\tHTTP")),
    "a chunk's size with a bare LF": request(CHUNKS, CHUNKED.replace("\r\n", "\n", 1)),
    "a chunk's extension with a bare LF": request(CHUNKS, CHUNKED.replace("\r\n", ";a\nb\r\n", 1)),
    "a chunk's extension with a bare CR": request(CHUNKS, CHUNKED.replace("\r\n", ";a\rb\r\n", 1)),
    "a chunk's size with a blank": request(CHUNKS, CHUNKED.replace("\r\n", " \r\n", 1)),
    "a chunk's size with a sign": request(CHUNKS, "+" + CHUNKED),
    "a chunk's size with 0x": request(CHUNKS, "0x" + CHUNKED),
    "a chunk that a bare LF ends": request(CHUNKS, CHUNKED.replace("}\r\n", "}\n")),
    "a chunk that is longer than its size": request(CHUNKS, CHUNKED.replace("}\r\n", "}}\r\n")),
    "trailers with a bare LF": request(CHUNKS, CHUNKED[:-2] + "X-Id: 1\n\r\n"),
    "trailers that a bare LF ends": request(CHUNKS, CHUNKED[:-2] + "\n"),
    "a continued trailer": request(CHUNKS, CHUNKED[:-2] + "X-Id: 1\r\n 2\r\n\r\n"),
}


@pytest.mark.parametrize("message", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_it_is_refused_and_the_connection_is_closed(url: str, message: bytes) -> None:
    answer = raw(url, message + SMUGGLED.encode())
    status, problem = told(answer)
    assert (status, problem["code"]) == (400, "usage")
    assert re.search(rb"(?i)\r\nconnection: close\r\n", answer)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"awake" not in answer


@pytest.mark.parametrize(
    "message",
    [
        request(LENGTH, BODY),
        request(CHUNKS, CHUNKED),
        request(CHUNKS.upper(), CHUNKED.upper().replace(BODY.upper(), BODY)),
        request(CHUNKS, CHUNKED.replace("\r\n", ';name="a value"\r\n', 1)),
        request(CHUNKS, CHUNKED[:-2] + "X-Id: 1\r\nX-Other:\t2 \r\n\r\n"),
        request("X-Id:\ta\tb \r\nX-Name: Gr\xfc\xdfe\r\nX-None:\r\n" + LENGTH, BODY),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_what_has_one_meaning_is_taken(url: str, message: bytes, at_once: bool) -> None:
    whole = message + SMUGGLED.encode()
    answer = raw(url, whole) if at_once else raw(url, *[whole[n : n + 1] for n in range(len(whole))])
    assert answer.count(b"HTTP/1.1 200") == 2
    assert BODY.replace(" ", "").removesuffix("}").encode() in answer
    assert b"awake" in answer


def test_a_body_that_breaks_the_protocol_while_its_answer_is_on_the_way_cuts_that(url: str) -> None:
    """The head is refused at once, for its type; what comes then is no chunk."""
    head = request(CHUNKS, "5\r\nhello\r\n").replace(b"application/json", b"text/plain")
    answer = raw(url, head, b"no chunk\r\n", pause=0.3)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"awake" not in answer


@pytest.mark.parametrize("message", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_it_is_refused_however_it_is_cut_into_pieces(message: bytes) -> None:
    """By the parser alone: byte by byte, and in two at every place."""
    for cuts in [range(1, len(message)), *([n] for n in range(1, len(message), 3))]:
        parser = StrictConnection(100_000)
        pieces = [message[a:b] for a, b in zip([0, *cuts], [*cuts, len(message)], strict=True)]
        with pytest.raises(h11.RemoteProtocolError):  # noqa: PT012 (which piece shows it depends on the message)
            for piece in pieces:
                parser.receive_data(piece)
                while (event := parser.next_event()) is not h11.NEED_DATA:
                    assert not isinstance(event, h11.EndOfMessage)


def classes() -> list[type[RegistryError]]:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RegistryError)]
    return [kind for kind in found if kind is not RegistryError]


def test_every_class_of_errors_has_a_status() -> None:
    assert set(STATUSES) == set(classes())


def test_every_code_of_its_own_exists() -> None:
    assert set(BY_CODE) <= set(CODES)


@pytest.mark.parametrize("kind", classes())
def test_every_error_can_be_told(kind: type[RegistryError]) -> None:
    for code in CODES:
        error = kind("Something is not as it should be.", code=code)
        told = problem(error, "request-1")
        assert told.status == status_of(error) == BY_CODE.get(code, STATUSES[kind])
        assert told.kind == kind.__name__
        assert ("Retry-After" in headers_of(told)) == (told.status in {429, 503})
        assert ("WWW-Authenticate" in headers_of(told)) == (told.status == 401)


def test_a_subclass_is_told_as_the_class_that_clients_know() -> None:
    class LostError(errors.NotFoundError):
        pass

    told = problem(LostError("There is no such thing."))
    assert (told.kind, told.status) == ("NotFoundError", 404)
