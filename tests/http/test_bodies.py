"""Bytes over HTTP: exact sizes, ranges, tags; nothing that is cut looks whole."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware

from registry.app import service_app
from registry.errors import IntegrityError, RegistryError
from registry.http.admission import Admission
from registry.http.bodies import BodySender, FileBody
from registry.http.errors import install
from registry.http.limits import BoundsMiddleware, Limits
from registry.http.metrics import Metrics
from registry.http.middleware import RequestMiddleware
from registry.schemas.protocol import API
from tests.kit.library import Library, Lines, assert_problem, running

REF = "tiny/a/x@1"


@dataclass(frozen=True)
class File:
    """A file of an artifact, and what the registry in process says of it."""

    path: str
    params: dict[str, str]
    etag: str
    data: bytes


@pytest.fixture(scope="module")
def files(admin: httpx.Client, library: Library) -> list[File]:
    found = []
    for kind in ("published", "lora", "merged"):
        plan = admin.get("/artifacts", params={"ref": REF, "kind": kind}).json()
        with library.registry.artifact(REF, kind=kind) as artifact:
            assert plan["rendering"] == artifact.rendering
            assert {entry["path"]: entry["size"] for entry in plan["files"]} == {
                path: file.size for path, file in artifact.files.items()
            }
            for entry in plan["files"]:
                address = f"/artifacts/{plan['rendering'].removeprefix('sha256:')}/{entry['path']}"
                data = artifact.file(entry["path"]).read()
                found.append(File(address, {"ref": plan["reference"], "kind": kind}, entry["etag"], data))
    bundle = admin.get("/bundles", params={"ref": REF}).json()
    for blob in bundle["links"][0]["files"]:
        answer = admin.get(f"/blobs/{blob['digest']}", params={"ref": REF})
        assert "sha256:" + hashlib.sha256(answer.content).hexdigest() == blob["digest"]
        found.append(File(f"/blobs/{blob['digest']}", {"ref": REF}, blob["digest"][7:], answer.content))
    return found


def test_a_file_is_sent_whole_with_its_size_and_tag(admin: httpx.Client, files: list[File]) -> None:
    assert len(files) > 6
    for file in files:
        answer = admin.get(file.path, params=file.params)
        assert (answer.status_code, answer.content) == (200, file.data)
        assert answer.headers["etag"] == f'"{file.etag}"'
        assert answer.headers["content-length"] == str(len(file.data))
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert "no-cache" in answer.headers["cache-control"]


def test_a_head_says_the_same_and_sends_nothing(admin: httpx.Client, files: list[File]) -> None:
    for file in files:
        answer = admin.head(file.path, params=file.params, headers={"Range": "bytes=0-0"})
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == str(len(file.data))
        assert answer.headers["etag"] == f'"{file.etag}"'


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_range_is_the_bytes_that_it_names(admin: httpx.Client, files: list[File], data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(files), label="file")
    size = len(file.data)
    first = data.draw(st.none() | st.integers(0, size + 5), label="first")
    last = data.draw(st.none() | st.integers(0, size + 5), label="last")
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    answer = admin.get(file.path, params=file.params, headers={"Range": header})
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        assert (answer.status_code, answer.content) == (200, file.data)
        return
    if first is None:
        assert last is not None
        start, stop = max(0, size - last), size
    else:
        start, stop = first, size if last is None else min(last + 1, size)
    if start >= stop:
        assert_problem(answer, 416, "usage")
        assert answer.headers["content-range"] == f"bytes */{size}"
        return
    assert answer.status_code == 206
    assert answer.content == file.data[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    assert answer.headers["content-length"] == str(stop - start)


def test_what_a_client_has_is_not_sent_again(admin: httpx.Client, files: list[File]) -> None:
    for file in files:
        for header in (f'"{file.etag}"', f'W/"{file.etag}"', "*", f'"other", "{file.etag}"'):
            answer = admin.get(file.path, params=file.params, headers={"If-None-Match": header})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == f'"{file.etag}"'
        answer = admin.get(file.path, params=file.params, headers={"If-None-Match": '"other"'})
        assert answer.content == file.data


def test_a_download_goes_on_only_with_the_same_bytes(admin: httpx.Client, files: list[File]) -> None:
    file = max(files, key=lambda one: len(one.data))
    headers = {"Range": "bytes=10-", "If-Range": f'"{file.etag}"'}
    assert admin.get(file.path, params=file.params, headers=headers).content == file.data[10:]
    for other in ('"other"', f'W/"{file.etag}"', "Wed, 25 Nov 2026 09:30:00 GMT"):
        answer = admin.get(file.path, params=file.params, headers={"Range": "bytes=10-", "If-Range": other})
        assert (answer.status_code, answer.content) == (200, file.data)


def test_plans_and_bundles_have_tags(admin: httpx.Client) -> None:
    for path in ("/artifacts", "/bundles"):
        answer = admin.get(path, params={"ref": REF})
        again = admin.get(path, params={"ref": REF}, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_another_rendering_than_asked_for_is_never_sent(admin: httpx.Client, files: list[File]) -> None:
    for file in files:
        if file.path.startswith("/artifacts"):
            wrong = "/artifacts/" + "0" * 64 + "/" + file.path.split("/", 3)[3]
            assert_problem(admin.get(wrong, params=file.params), 503, "numerics")
            assert admin.head(wrong, params=file.params).status_code == 503


@pytest.mark.parametrize("kind", ["lora", "merged", "published"])
def test_a_rendering_of_something_else_is_not_found(
    admin: httpx.Client, library: Library, service: str, kind: str
) -> None:
    """It is no matter of arithmetic: the service makes it itself, of another path or with other options."""

    def plan(ref: str, client: httpx.Client = admin, **options: int) -> dict[str, Any]:
        return dict(client.get("/artifacts", params={"ref": ref, "kind": kind, **options}).json())

    def file(ref: str, rendering: str, client: httpx.Client = admin, **options: int) -> httpx.Response:
        address = f"/artifacts/{rendering.removeprefix('sha256:')}/adapter_config.json"
        return client.get(address, params={"ref": ref, "kind": kind, **options})

    theirs = plan("tiny/b")["rendering"]
    assert_problem(file("tiny/a", theirs), 404, "not_found")
    if kind == "lora":
        truncated = plan("tiny/a", rank=1)["rendering"]
        assert_problem(file("tiny/a", truncated), 404, "not_found")
    with httpx.Client(base_url=service + API, headers=library.headers("reader of a"), timeout=120) as reader:
        assert_problem(file("tiny/a", theirs, reader), 503, "numerics")  # what is hidden was made by nobody
        own = plan("tiny/a@1", reader)["rendering"]
        assert_problem(file("tiny/a@2", own, reader), 404, "not_found")


def test_a_file_that_the_artifact_lacks_is_not_found(admin: httpx.Client, files: list[File]) -> None:
    for file in files:
        if file.path.startswith("/artifacts"):
            assert_problem(admin.get(file.path + "x", params=file.params), 404, "not_found")


def test_a_blob_of_another_lineage_is_not_found(admin: httpx.Client, library: Library) -> None:
    (link,) = library.registry.bundle("tiny/b@1").links
    digest = next(file.digest for file in link.files if file.path == "adapter_model.safetensors")
    assert admin.get(f"/blobs/{digest}", params={"ref": "tiny/b@1"}).status_code == 200
    assert_problem(admin.get(f"/blobs/{digest}", params={"ref": "tiny/a@2"}), 404, "not_found")


def test_bytes_are_counted_by_kind(library: Library, files: list[File], log: Lines) -> None:
    def sent(address: str) -> dict[str, float]:
        counted = 'registry_body_bytes_total{direction="out",kind="'
        lines = [line for line in httpx.get(f"{address}/metrics").text.splitlines() if line.startswith(counted)]
        return {line.split('"')[3]: float(line.split()[-1]) for line in lines}

    # A service of its own: what is counted of other tests may come after their answers.
    with running(service_app(library.registry)) as address:
        expected: dict[str, float] = {}
        for file in files:
            headers = {"Range": "bytes=0-99", **library.headers("admin")}
            answer = httpx.get(address + API + file.path, params=file.params, headers=headers)
            log.of_request(answer.headers["x-request-id"])  # its line comes after it was counted
            kind = "blob" if file.path.startswith("/blobs") else "artifact"
            expected[kind] = expected.get(kind, 0) + min(100, len(file.data))
            assert sent(address) == expected


# What a file does while it is read: on an app of our own, because stored files behave.


class Source:
    """A file whose bytes come as the test says."""

    def __init__(self, size: int, make: Callable[[int], memoryview], piece: int = 1 << 16) -> None:
        self.size, self.make, self.piece = size, make, piece
        self.made = 0
        self.closed = threading.Event()

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        for at in range(start, stop, self.piece):
            self.made += 1
            yield self.make(min(self.piece, stop - at))

    def bytes(self) -> FileBody:
        return FileBody("tag", self.size, self.chunks, self.closed.set, "artifact", "file.bin")


def sending(source: Source, limits: Limits) -> FastAPI:
    app = FastAPI(
        middleware=[
            Middleware(RequestMiddleware, limits=limits, metrics=Metrics(dict)),
            Middleware(BoundsMiddleware, limits=limits),
        ]
    )

    async def refused(request: Request, error: RegistryError) -> None:
        del request, error

    install(app, refused)
    slots = Admission("bodies", slots=limits.computed, queue=limits.queue, timeout=limits.queue_time)
    bodies = BodySender(threads=4, stall=limits.stall_time, admissions={"computed": slots})

    @app.api_route(f"{API}/file", methods=["GET", "HEAD"])
    def file(request: Request) -> Response:
        return bodies.answer(request, source.bytes(), admission="computed")

    return app


def zeros(length: int) -> memoryview:
    return memoryview(bytes(length))


def test_what_is_damaged_from_the_first_byte_is_a_problem(log: Lines) -> None:
    def damaged(_: int) -> memoryview:
        raise IntegrityError("The blob is damaged.")

    source = Source(1000, damaged)
    with running(sending(source, Limits())) as url:
        assert_problem(httpx.get(f"{url}{API}/file"), 500, "corrupt")
    assert source.closed.is_set()


def test_what_turns_out_damaged_later_breaks_the_connection(log: Lines) -> None:
    def damaged(length: int) -> memoryview:
        if source.made > 3:
            raise IntegrityError("The blob is damaged.")
        return zeros(length)

    source = Source(1 << 20, damaged)
    cut = pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body")
    with running(sending(source, Limits())) as url, cut:
        httpx.get(f"{url}{API}/file")
    assert source.closed.is_set()
    assert any("damaged" in str(line["event"]) for line in log.all)


def test_a_bug_in_the_middle_breaks_the_connection_too(log: Lines) -> None:
    def broken(length: int) -> memoryview:
        if source.made > 3:
            raise ZeroDivisionError
        return zeros(length)

    source = Source(1 << 20, broken)
    with running(sending(source, Limits())) as url, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}{API}/file")
    assert source.closed.is_set()
    assert any("ZeroDivisionError" in str(line.get("traceback")) for line in log.all)


def test_a_head_computes_nothing() -> None:
    source = Source(1 << 40, zeros)
    with running(sending(source, Limits())) as url:
        answer = httpx.head(f"{url}{API}/file")
    assert answer.headers["content-length"] == str(1 << 40)
    assert source.made == 0
    assert source.closed.is_set()


def test_a_client_that_goes_away_stops_the_work() -> None:
    source = Source(1 << 40, zeros)
    with running(sending(source, Limits())) as url:
        with httpx.stream("GET", f"{url}{API}/file") as answer:
            assert len(next(answer.iter_raw())) > 0
        assert source.closed.wait(120)
        made = source.made
        assert made < 100_000


def test_a_client_that_takes_nothing_is_cut_off(log: Lines) -> None:
    source = Source(1 << 40, zeros)
    with running(sending(source, replace(Limits(), stall_time=0.3))) as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port or 0), timeout=120) as wire:
            wire.sendall(f"GET {API}/file HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert source.closed.wait(120)
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while piece := wire.recv(1 << 20):
                    received += len(piece)
    assert received < source.made * source.piece
    assert any("read little or nothing" in str(line["event"]) for line in log.all)


def test_too_many_computed_bodies_are_told_to_come_again() -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(length: int) -> memoryview:
        begun.release()
        assert go_on.wait(120)
        return zeros(length)

    limits = replace(Limits(), computed=1, queue=1, queue_time=30.0)
    answers: list[httpx.Response] = []
    source = Source(10, slow)
    with running(sending(source, limits)) as url:

        def get() -> None:
            answers.append(httpx.get(f"{url}{API}/file", timeout=120))

        threads = [threading.Thread(target=get) for _ in range(6)]
        for thread in threads:
            thread.start()
        assert begun.acquire(timeout=120)
        while len(answers) < 4:
            time.sleep(0.01)
        for answer in answers:
            assert_problem(answer, 503, "busy")
        go_on.set()
        for thread in threads:
            thread.join()
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503, 503]


def test_one_who_waits_too_long_for_a_seat_is_told_so() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(length: int) -> memoryview:
        begun.set()
        assert go_on.wait(120)
        return zeros(length)

    limits = replace(Limits(), computed=1, queue=5, queue_time=0.2)
    answers: list[Any] = []
    with running(sending(Source(10, slow), limits)) as url:
        first = threading.Thread(target=lambda: answers.append(httpx.get(f"{url}{API}/file", timeout=120)))
        first.start()
        assert begun.wait(120)
        assert_problem(httpx.get(f"{url}{API}/file", timeout=120), 503, "busy")
        go_on.set()
        first.join()
    assert answers[0].content == bytes(10)


# Turns: nobody keeps a seat while others wait for it.


def opened(url: str, receive_buffer: int | None = None, *, path: str = f"{API}/file") -> socket.socket:
    """A client that has asked for the file, or something else, and reads nothing yet."""
    address = urlsplit(url)
    wire = socket.socket()
    if receive_buffer is not None:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    wire.settimeout(120)
    wire.connect((address.hostname, address.port))
    wire.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return wire


def rest(wire: socket.socket) -> bytes:
    data = bytearray()
    while piece := wire.recv(1 << 20):
        data += piece
    return bytes(data).partition(b"\r\n\r\n")[2]


class Pattern(Source):
    """A large file whose bytes tell where they are from."""

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        at = start
        while at < stop:  # on a grid of its own, as an artifact's pieces are
            end = min(stop, at - at % self.piece + self.piece)
            self.made += 1
            yield memoryview(self.data[at:end])
            at = end

    data = bytes(range(251)) * (1 << 18)


def pattern() -> Pattern:
    return Pattern(len(Pattern.data), zeros, piece=1 << 20)


def test_a_client_that_reads_nothing_keeps_nobody_from_the_only_seat() -> None:
    source = pattern()
    with running(sending(source, replace(Limits(), computed=1))) as url, opened(url, 1 << 16) as slow:
        deadline = time.monotonic() + 120
        while source.made < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(2):
            assert httpx.get(f"{url}{API}/file", timeout=120).content == source.data
        ahead = source.made - 2 * len(source.data) // source.piece
        assert ahead < 16  # what the buffers of both sides hold
        assert rest(slow) == source.data


def test_one_who_reads_a_byte_at_a_time_is_served_little(log: Lines) -> None:
    source = Source(1 << 40, zeros)
    with running(sending(source, replace(Limits(), computed=1, stall_time=0.5))) as url:
        with opened(url, 1 << 16) as slow, contextlib.suppress(ConnectionResetError):  # it is cut before it is closed
            while not source.closed.wait(0.01):
                assert slow.recv(1)
        assert source.closed.wait(120)
        assert source.made * source.piece < 64 << 20
    assert any("read little or nothing" in str(line["event"]) for line in log.all)


def test_a_large_body_does_not_keep_a_small_one_waiting() -> None:
    endless, small = Source(1 << 40, zeros, piece=1 << 20), Source(10, zeros)
    sources = iter([endless, small])

    class Both(Source):
        def bytes(self) -> FileBody:
            return next(sources).bytes()

    with running(sending(Both(0, zeros), replace(Limits(), computed=1, queue_time=30.0))) as url:
        with httpx.stream("GET", f"{url}{API}/file", timeout=120) as large:
            pieces = large.iter_raw(1 << 20)
            next(pieces)
            stop = threading.Event()

            def drain() -> None:
                while not stop.is_set():
                    next(pieces)

            reader = threading.Thread(target=drain)
            reader.start()
            try:
                assert httpx.get(f"{url}{API}/file", timeout=120).content == bytes(10)
                made = endless.made
                assert not endless.closed.is_set()
            finally:
                stop.set()
                reader.join()
            next(pieces)  # and it goes on
            assert made > 0
        assert endless.closed.wait(120)


def crowd(url: str, count: int) -> list[httpx.Response]:
    """The answers that so many clients get who come at once."""
    answers: list[httpx.Response] = []

    def get() -> None:
        with httpx.Client(timeout=60) as client:
            answers.append(client.get(f"{url}{API}/file"))

    threads = [threading.Thread(target=get) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_a_crowd_is_served_or_told_to_come_again(count: int) -> None:
    most = threading.Semaphore(4)

    def make(length: int) -> memoryview:
        assert most.acquire(blocking=False), "more work than there are seats"
        time.sleep(0.002)
        most.release()
        return zeros(length)

    source = Source(1 << 20, make)
    with running(sending(source, replace(Limits(), computed=4, queue=8, queue_time=30.0))) as url:
        answers = crowd(url, count)
        assert len(answers) == count
        for answer in answers:
            if answer.status_code == 200:
                assert answer.content == bytes(1 << 20)
            else:
                assert_problem(answer, 503, "busy")
        assert sum(answer.status_code == 200 for answer in answers) >= 12
        assert httpx.get(f"{url}{API}/file", timeout=120).status_code == 200


def test_a_file_that_ends_too_early_breaks_the_connection(log: Lines) -> None:
    class Short(Source):
        def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
            del stop
            return super().chunks(start, 100)

    cut = pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body")
    with running(sending(Short(1000, zeros), Limits())) as url, cut:
        httpx.get(f"{url}{API}/file")
    assert any("was promised" in str(line.get("traceback")) for line in log.all)


def test_a_connection_goes_on_after_a_body(admin: httpx.Client, files: list[File]) -> None:
    """What was sent beside the transport is counted: the next answer on the same connection is whole."""
    address = urlsplit(str(admin.base_url))
    file = max(files, key=lambda one: len(one.data))
    request = admin.build_request("GET", file.path, params=file.params)
    target = request.url.raw_path.decode()
    lines = [f"GET {target} HTTP/1.1", f"Host: {address.netloc}", f"Authorization: {admin.headers['Authorization']}"]
    with socket.create_connection((address.hostname, address.port or 0), timeout=120) as wire:
        for _ in range(3):
            wire.sendall("\r\n".join([*lines, "", ""]).encode())
            stream = wire.makefile("rb")
            head = b"".join(iter(stream.readline, b"\r\n"))
            assert head.startswith(b"HTTP/1.1 200")
            assert stream.read(len(file.data)) == file.data
            stream.close()
