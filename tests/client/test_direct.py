"""The transport of downloads: what it keeps, what it gives up, and that it says what httpx says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from registry.client.direct import DirectTransport, reading
from registry.client.errors import RetryPolicy
from registry.client.transport import Transport

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n"


@contextmanager
def server(*connections: list[bytes]) -> Iterator[tuple[str, list[int]]]:
    """A server that answers with the given bytes, a list for each connection; and on which one it was asked."""
    asked: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for number, answers in enumerate(connections):
                connection, _ = listener.accept()
                with connection:
                    for answer in answers:
                        if not connection.recv(65536):
                            break
                        asked.append(number)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x", asked
        thread.join(10)


def whole(client: httpx.Client, url: str) -> bytes:
    """The body, in steps of three bytes."""
    with client.stream("GET", url) as answer:
        read, found, buffer = reading(answer), b"", memoryview(bytearray(3))
        while count := read(buffer):
            found += buffer[:count]
        return found


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(transport=DirectTransport(keep=2), timeout=httpx.Timeout(5)) as made:
        yield made


def test_a_connection_is_used_again_once_its_body_was_read(client: httpx.Client) -> None:
    with server([HEAD + b"\r\nfour", HEAD + b"\r\nmore"]) as (url, asked):
        assert whole(client, url) == b"four"
        assert whole(client, url) == b"more"
    assert asked == [0, 0]


def test_an_empty_body_that_nobody_reads_leaves_the_connection_in_use(client: httpx.Client) -> None:
    moved = b"HTTP/1.1 307 Moved\r\nContent-Length: 0\r\nLocation: /y\r\n\r\n"
    with server([moved, HEAD + b"\r\nfour"]) as (url, asked):
        with client.stream("GET", url) as answer:
            assert (answer.status_code, answer.headers["location"]) == (307, "/y")
        assert whole(client, url) == b"four"
    assert asked == [0, 0]


def test_a_body_that_was_left_in_the_middle_ends_its_connection(client: httpx.Client) -> None:
    with server([HEAD + b"\r\nfour", HEAD + b"\r\nelse"], [HEAD + b"\r\nmore"]) as (url, asked):
        with client.stream("GET", url) as answer:
            assert reading(answer)(memoryview(bytearray(2))) == 2
        assert whole(client, url) == b"more"
    assert asked == [0, 1]


def test_a_connection_that_was_closed_while_it_was_idle_is_replaced(client: httpx.Client) -> None:
    with server([HEAD + b"\r\nfour"], [HEAD + b"\r\nmore"]) as (url, asked):
        assert whole(client, url) == b"four"
        assert whole(client, url) == b"more"
    assert asked == [0, 1]


@pytest.mark.parametrize("last", ["close", "none"])
def test_a_body_without_a_length_ends_with_its_connection(client: httpx.Client, last: str) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + (b"Connection: close\r\n" if last == "close" else b"")
    with server([head + b"\r\nfour"]) as (url, _):
        assert whole(client, url) == b"four"


def test_chunks_are_put_together(client: httpx.Client) -> None:
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfo\r\n2\r\nur\r\n0\r\n\r\n"
    with server([body, HEAD + b"\r\nmore"]) as (url, asked):
        assert whole(client, url) == b"four"
        assert whole(client, url) == b"more"
    assert asked == [0, 0]


def test_a_body_that_is_cut_short_is_no_body(client: httpx.Client) -> None:
    with server([HEAD + b"\r\nfo"]) as (url, _), pytest.raises(httpx.RemoteProtocolError, match="2 bytes early"):
        whole(client, url)


def test_documents_are_read_as_from_any_response(client: httpx.Client) -> None:
    with server([HEAD + b"X-Name: caf\xe9\r\n\r\nfour"]) as (url, _):
        answer = client.get(url)
    assert answer.text == "four"
    assert answer.headers["x-name"] == "café"


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"nonsense\r\n\r\n", httpx.RemoteProtocolError), (b"", httpx.RemoteProtocolError)],
    ids=["no HTTP", "nothing"],
)
def test_what_is_no_response_is_an_error_of_httpx(
    client: httpx.Client, answer: bytes, error: type[httpx.HTTPError]
) -> None:
    with server([answer]) as (url, _), pytest.raises(error):
        client.get(url)


def test_silence_is_a_timeout_of_httpx() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        httpx.Client(transport=DirectTransport(keep=1), timeout=0.1) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.get(f"http://127.0.0.1:{silent.getsockname()[1]}/")


def test_nobody_there_is_an_error_of_httpx(client: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(httpx.ConnectError, match="refused"):
        client.get(f"http://127.0.0.1:{port}/")


def test_through_a_proxy_bodies_come_by_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    with server([HEAD + b"\r\nfour"]) as (url, _):
        monkeypatch.setenv("http_proxy", url.removesuffix("/x"))
        transport = Transport("http://registry.example", None, RetryPolicy())
        with transport.stream("http://store.example/bucket/x", {}) as answer:
            read, buffer = reading(answer), memoryview(bytearray(3))
            assert (read(buffer), bytes(buffer)) == (3, b"fou")
            assert (read(buffer), bytes(buffer[:1])) == (1, b"r")
            assert read(buffer) == 0
        transport.close()
