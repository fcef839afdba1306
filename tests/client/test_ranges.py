"""Bytes by range from services and stores that answer something else than what was asked for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from registry.client.errors import RetryPolicy
from registry.client.publish import Uploads
from registry.client.ranges import RangeReader
from registry.client.transport import Transport
from registry.errors import IntegrityError, RegistryError, UnavailableError
from registry.progress import SILENT
from registry.schemas.transfer import Upload
from tests.client.strange import Request, Script, problem, response, strange_server

DATA = bytes(range(256))
QUICK = RetryPolicy(known=5.0, unknown=5.0, first=0.001, most=0.01)
ETAG = 'ETag: "e"'


def read(script: object, start: int, stop: int, retry: RetryPolicy = QUICK) -> bytes:
    """What a reader of 256 bytes gets."""
    with strange_server(script) as server:  # type: ignore[arg-type]
        transport = Transport(server.url, "secret", retry)
        reader = RangeReader(transport, "/blobs/x", {"ref": "net"}, size=len(DATA), etag="e", what="x of net")
        data = bytearray(stop - start)
        try:
            reader.read_into(start, memoryview(data))
        finally:
            transport.close()
    return bytes(data)


def part(start: int, stop: int, *headers: str, status: str = "206 Partial Content", size: int = 256) -> bytes:
    return response(status, DATA[start:stop], f"Content-Range: bytes {start}-{stop - 1}/{size}", *headers)


@pytest.mark.parametrize("status", ["206 Partial Content", "200 OK"], ids=["as agreed", "as some stores do"])
def test_a_range(status: str) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> bytes:
        asked.append(request)
        return part(10, 20, ETAG, status=status)

    assert read(answer, 10, 20) == DATA[10:20]
    assert asked[0].headers["range"] == "bytes=10-19"
    assert asked[0].headers["if-range"] == '"e"'
    assert asked[0].headers["accept-encoding"] == "identity"


def test_the_whole_file() -> None:
    assert read(lambda _request: response("200 OK", DATA, ETAG), 0, 256) == DATA


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (part(11, 21, ETAG), "bytes 11-20/256"),
        (part(10, 19, ETAG), "bytes 10-18/256"),
        (part(10, 20, ETAG, size=300), "bytes 10-19/300"),
        (response("206 Partial Content", DATA[10:20], ETAG, "Content-Range: bytes */256"), r"bytes \*/256"),
        (response("206 Partial Content", DATA[10:20], ETAG), "HTTP 206"),
        (response("200 OK", DATA, ETAG), "the whole file instead of a range"),
        (part(10, 20, 'ETag: "other"'), "another file"),
        (part(10, 20), "without an ETag"),
        (response("307 Moved", b"", "Location: http://127.0.0.1:1/x"), "without an ETag"),
        (response("307 Moved", b"", "Location: http://a..b/x", ETAG), "an invalid address"),
        (response("206 OK", DATA[10:30], ETAG, "Content-Range: bytes 10-19/256"), "more than the 10 bytes"),
    ],
    ids=[
        "shifted",
        "short",
        "other size",
        "unsatisfied",
        "no range",
        "whole",
        "other file",
        "no tag",
        "moved",
        "nowhere",
        "more",
    ],
)
def test_other_bytes_than_were_asked_for_are_refused(answer: bytes, words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        read(lambda _request: answer, 10, 20)


def test_a_move_to_nowhere_is_an_answer_that_says_nothing() -> None:
    with pytest.raises(UnavailableError, match="answers HTTP 307 and does not say why"):
        read(lambda _request: response("307 Moved", b"", ETAG), 10, 20)


def test_a_body_that_breaks_goes_on_where_it_broke() -> None:
    asked: list[str] = []

    def answer(request: Request) -> bytes:
        asked.append(request.headers["range"])
        start = int(request.headers["range"].partition("=")[2].partition("-")[0])
        whole = part(start, 100, ETAG)
        return whole[: -max(0, 100 - start - 30)] if start < 70 else whole

    assert read(answer, 10, 100) == DATA[10:100]
    assert asked == ["bytes=10-99", "bytes=40-99", "bytes=70-99"]


PAGE = b"<html>Please log in to the guest network</html>"
WITHOUT_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n" + PAGE


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (WITHOUT_LENGTH, "an unknown number of bytes (text/html)"),
        (response("200 OK", PAGE, "Content-Type: text/html", ours=False), "47 bytes (text/html)"),
        (response("302 Found", b"", "Location: /portal", ours=False), "HTTP 302"),
    ],
    ids=["without length", "with length", "moved"],
)
def test_a_page_in_place_of_a_store_is_no_beginning_of_a_file(page: bytes, words: str) -> None:
    with strange_server(lambda request: page if request.number == 1 else part(47, 256)) as store:
        moved = response("307 Temporary Redirect", b"", f"Location: {store.url}/bucket/x", ETAG)
        with pytest.raises(RegistryError) as refused:
            read(lambda _request: moved, 0, 256)
        assert len(store.requests) == 1
    assert words in str(refused.value)
    assert store.url in str(refused.value)


def only_second(request: Request) -> bytes:
    """A store for which the first signature is too old."""
    return part(0, 4) if "signature=2" in request.line else response("403 Forbidden", ours=False)


def test_a_store_is_asked_without_the_token_and_named_anew_when_it_refuses() -> None:
    with strange_server(only_second) as other:

        def moved(request: Request) -> bytes:
            return response("307 Moved", b"", f"Location: {other.url}/bucket/x?signature={request.number}", ETAG)

        assert read(moved, 0, 4) == DATA[:4]
    assert other.lines == [f"GET /bucket/x?signature={number} HTTP/1.1" for number in (1, 2)]
    assert all("authorization" not in request.headers for request in other.requests)


def test_a_part_is_sent_without_the_token_and_to_a_new_address_when_the_old_one_is_refused() -> None:
    with strange_server(only_second) as store:

        def service(request: Request) -> bytes:
            return under_way("u", {1: f"{store.url}/bucket/x?signature={request.number}"})

        assert sent_to(service) == ["u"]
    assert store.lines == [f"PUT /bucket/x?signature={number} HTTP/1.1" for number in (1, 2)]
    assert [request.body for request in store.requests] == [b"four", b"four"]
    assert all("authorization" not in request.headers for request in store.requests)


def test_an_upload_that_was_used_up_meanwhile_is_begun_again() -> None:
    with strange_server(lambda request: response("200 OK" if "second" in request.line else "404 Not Found")) as store:

        def service(request: Request) -> bytes:
            if request.line.startswith("GET"):
                return problem("404 Not Found", kind="NotFoundError", code="not_found", detail="It is gone.")
            name = "first" if request.number == 1 else "second"
            return under_way(name, {1: f"{store.url}/bucket/{name}"})

        assert sent_to(service) == ["second"]


def test_of_many_parts_only_the_next_ones_are_signed() -> None:
    with strange_server(lambda _request: response("200 OK")) as store:

        def service(request: Request) -> bytes:
            numbers = (1, 2) if request.line.startswith("POST") else (3, 4)
            there = () if numbers == (1, 2) else (1, 2)
            urls = {number: f"{store.url}/bucket/x?part={number}" for number in numbers}
            return under_way("u", urls, part_size=1, there=there)

        assert sent_to(service) == ["u"]
    assert sorted(store.lines) == [f"PUT /bucket/x?part={number} HTTP/1.1" for number in (1, 2, 3, 4)]


def under_way(name: str, urls: dict[int, str], *, part_size: int = 16, there: tuple[int, ...] = ()) -> bytes:
    """What a service says of an upload of four bytes."""
    upload = Upload(
        id=name,
        digest="sha256:" + "0" * 64,
        size=4,
        part_size=part_size,
        parts=-(-4 // part_size),
        there=there,
        urls=urls,
        expires_at=datetime.now(UTC),
    )
    return response("200 OK", upload.model_dump_json().encode())


def sent_to(service: Script) -> list[str]:
    """Ids of the uploads that four bytes became."""
    with strange_server(service) as server:
        transport = Transport(server.url, "secret", QUICK)
        sent = Uploads(transport, SILENT).send([("sha256:" + "0" * 64, Four())])
        transport.close()
    return list(sent.values())


class Four:
    """Four bytes."""

    size = 4

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = b"four"[offset : offset + len(buffer)]


def test_a_store_that_keeps_refusing_is_told_without_its_signature() -> None:
    with strange_server(lambda _request: response("403 Forbidden", ours=False)) as other:
        moved = response("307 Temporary Redirect", b"", f"Location: {other.url}/bucket/x?signature=1", ETAG)
        with pytest.raises(UnavailableError, match="HTTP 403") as refused:
            read(lambda _request: moved, 0, 4, RetryPolicy(known=0.1, unknown=0.1, first=0.01))
    assert other.url in str(refused.value)
    assert "signature" not in str(refused.value)
