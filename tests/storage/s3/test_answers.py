"""Answers of a store that are lost, or that break off where nobody looks for it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.digest import sha256_digest
from registry.errors import IntegrityError, NotFoundError, UnavailableError
from registry.storage.blobs import BlobStore
from registry.storage.driver import blocks_key
from registry.storage.s3 import connection, reading, writing
from registry.storage.s3.reading import S3Reader
from tests.kit.servers import S3Place
from tests.kit.shim import Fault, Shim
from tests.storage.conftest import MakeS3, everything

BLOCK = 256 * 1024
KEY = "blobs/sha256/ab/abcd-01234567"


@pytest.fixture
def shim(s3_settings: S3Place) -> Iterator[Shim]:
    """A way to the bucket that can be made to fail."""
    with Shim(s3_settings.endpoint) as shim:
        yield shim


def lost_join() -> Fault:
    """The store joins the parts of an upload, and nobody hears of it."""
    return Fault(method="POST", target=r"uploadId=", times=1, lose_answer=True)


def unfinished(store: BlobStore) -> list[str]:
    names = everything(store._driver, Path())
    return [name for name in names if not name.startswith("bl") or "unfinished" in name]


def test_parts_that_were_joined_without_an_answer_are_a_written_object(
    make_s3: MakeS3, shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PART", BLOCK)
    store = BlobStore(make_s3(shim.url, attempts=2))
    shim.faults = [lost_join()]
    store.check(store.put_bytes(bytes(3 * BLOCK)))
    assert [one.status for one in shim.seen("POST", "uploadId=")] == [0, 404]
    assert unfinished(store) == []


def test_parts_that_were_joined_without_an_answer_are_a_copy(
    make_s3: MakeS3, shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SINGLE_COPY", 10)
    monkeypatch.setattr(reading, "CARRIED_PART", BLOCK)
    driver = make_s3(shim.url, attempts=2)
    source = BlobStore(driver).put_bytes(bytes(2 * BLOCK))
    shim.faults = [lost_join()]
    reading.copy_object(driver._bucket, source.key, KEY, source.size)
    assert driver.size(KEY) == source.size
    assert [one.status for one in shim.seen("POST", "uploadId=")] == [0, 404]


def test_parts_that_were_joined_without_an_answer_are_an_upload(make_s3: MakeS3, shim: Shim) -> None:
    store = BlobStore(make_s3(shim.url, attempts=2))
    data = bytes(2 * BLOCK)
    staging = store.begin_staging(len(data), BLOCK, sha256_digest(data))
    for number in (1, 2):
        store.put_part(staging, number, [data[:BLOCK]])
    shim.faults = [lost_join()]
    with store.adopt(staging, sha256_digest(data)) as staged:
        store.check(staged.commit())
    assert [one.status for one in shim.seen("POST", "uploadId=")] == [0, 404]
    assert unfinished(store) == []


def test_an_upload_that_was_dropped_is_not_taken_for_joined(
    make_s3: MakeS3,
) -> None:
    """Also where something else lies under the key: only an object of the right length is the one."""
    bucket = make_s3()._bucket
    upload = bucket.begin(KEY)
    tag = bucket.put_part(KEY, upload, 1, b"four", 4)
    bucket.abort(KEY, upload)
    for there in (None, b"fives"):
        if there is not None:
            bucket.put(KEY, there, len(there))
        with pytest.raises(NotFoundError):
            bucket.join(KEY, upload, {1: tag}, 4)
    bucket.put(KEY, b"four", 4)
    bucket.join(KEY, upload, {1: tag}, 4)


class BreaksOff:
    """A store that begins a refusal, and does not come to its end: the connection is silent, or reset."""

    def __init__(self, refusal: str, way: str) -> None:
        self._head = f"HTTP/1.1 {refusal}\r\nContent-Type: application/xml\r\nContent-Length: 500\r\n\r\n<?xml version"
        self._way = way
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            wire, _ = self._listener.accept()
            self._open.append(wire)
            if not wire.recv(65536):
                return
            self.asked += 1
            with contextlib.suppress(OSError):  # who asked does not wait for long, and may be gone
                wire.sendall(self._head.encode())
            if self._way == "reset":
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                wire.close()

    def __enter__(self) -> BreaksOff:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        socket.create_connection(self._listener.getsockname()).close()  # asks for nothing: the end
        self._thread.join()
        for wire in (*self._open, self._listener):
            wire.close()


@pytest.mark.slow_on("silent")
@pytest.mark.parametrize("way", ["silent", "reset"])
@pytest.mark.parametrize("refusal", ["503 Slow Down", "404 Not Found"])
def test_a_refusal_that_breaks_off_is_one_sentence(
    make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch, refusal: str, way: str
) -> None:
    monkeypatch.setattr(connection, "_READ_TIMEOUT", 0.2)
    with BreaksOff(refusal, way) as broken:
        driver = make_s3(broken.url)
        actions: list[Callable[[], object]] = [
            lambda: driver.delete(KEY),
            lambda: list(driver.objects("")),
            lambda: driver.begin_staging(2, 1, sha256_digest(b"")),
            lambda: driver._bucket.put(KEY, b"data", 4),
        ]
        for action in actions:
            with pytest.raises(UnavailableError, match=f"can't be reached at {broken.url}"):
                action()
    with BreaksOff(refusal, way) as broken, pytest.raises(UnavailableError, match="broke the connection 4 times"):
        S3Reader(make_s3(broken.url)._bucket, KEY, 1000).read_into(0, memoryview(bytearray(100)))
    assert broken.asked == 4  # counted to the end: it may hear of a request when nobody waits for its answer any more


def test_a_read_goes_on_after_a_refusal_that_broke_off(make_s3: MakeS3, shim: Shim) -> None:
    store = BlobStore(make_s3(shim.url))
    blob = store.put_bytes(b"some bytes")
    chunked = {"Transfer-Encoding": "chunked"}
    with store.open(blob) as reader:
        shim.faults = [Fault(method="GET", times=2, status=503, headers=chunked, body=b"no chunk\r\n")]
        found = bytearray(blob.size)
        reader.read_into(0, memoryview(found))
    assert found == b"some bytes"


@pytest.mark.parametrize(("kind", "what"), [("blobs", "its file"), ("blocks", "the list of its block digests")])
def test_what_goes_between_its_size_and_its_bytes_is_missing(
    make_s3: MakeS3, shim: Shim, s3_settings: S3Place, tmp_path: Path, kind: str, what: str
) -> None:
    store = BlobStore(make_s3(shim.url))
    blob = store.put_bytes(bytes(2 * BLOCK))
    (file,) = s3_settings.folder.rglob(blob.key if kind == "blobs" else blocks_key(blob.key))
    shim.faults = [Fault(method="GET", target=f"{kind}/", times=1, then=file.unlink)]
    with pytest.raises(IntegrityError, match=f"{what} is missing"):
        store.check(blob)
    assert shim.faults[0].times == 0
    (tmp_path / "file").write_bytes(bytes(2 * BLOCK))
    kept = store.keep(tmp_path / "file", blob.digest, known=blob)
    assert (kept.stored_by, kept.key != blob.key) == ("copy", True)
    store.check(kept)
