"""Answers of a store that are wrong though what it keeps is right: asked for again, and never called damage.

And what a store says that it has done, and has not: that is its fault, and nobody is told of a key or of a mistake.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.digest import sha256_digest
from registry.errors import IntegrityError, UnavailableError
from registry.storage.blobs import BlobStore, StoredBlob
from registry.storage.driver import Commit
from registry.storage.s3 import reading, writing
from tests.kit.servers import S3Place
from tests.kit.shim import Asked, Fault, Shim, flip_first_byte
from tests.storage.conftest import MakeS3, everything

BLOCK = 256 * 1024
SIZES = [1000, 3 * BLOCK + 17]
XML = {"Content-Type": "application/xml"}


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture
def shim(s3_settings: S3Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shim]:
    """A way to the bucket that can be made to fail."""
    monkeypatch.setattr(writing, "PART", BLOCK)
    with Shim(s3_settings.endpoint) as shim:
        yield shim


def read_whole(store: BlobStore, blob: StoredBlob) -> bytes:
    found = bytearray(blob.size)
    with store.open(blob) as reader:
        reader.read_into(0, memoryview(found))
    return bytes(found)


def read_edge(store: BlobStore, blob: StoredBlob) -> bytes:
    found = bytearray(blob.size)
    with store.open(blob) as reader:
        for at in range(0, blob.size, 99_999):
            reader.read_into(at, memoryview(found)[at : at + 99_999])
    return bytes(found)


def check(store: BlobStore, blob: StoredBlob) -> bytes:
    store.check(blob)
    return read_whole(store, blob)


def find(store: BlobStore, blob: StoredBlob) -> bytes:
    """A known blob is read back before it is relied on: taken for damaged, it would be stored once more."""
    data = noise(blob.size)
    assert store.put_bytes(data, known=blob).stored_by == "none"
    return data


def cut_short(asked: Asked) -> tuple[int, bytes]:
    del asked
    return 206, b"short"


ONCE: dict[str, Fault] = {
    "a flipped bit": Fault(method="GET", change_answer=flip_first_byte),
    "a shorter answer": Fault(method="GET", answer=cut_short),
    "no such object": Fault(method="GET", status=404),
    "no such range": Fault(method="GET", status=416),
    "no such object, when its size is asked for": Fault(method="HEAD", status=404),
}


@pytest.mark.parametrize("action", [read_whole, read_edge, check, find])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE)
def test_one_wrong_answer_is_no_damage(
    make_s3: MakeS3, shim: Shim, action: Callable[[BlobStore, StoredBlob], bytes], size: int, fault: Fault
) -> None:
    store = BlobStore(make_s3(shim.url))
    blob = store.put_bytes(noise(size))
    for target in ("/blobs/", "/blocks/"):
        fault.target, fault.times = target, 1
        shim.faults = [fault]
        assert action(store, blob) == noise(size)
        assert fault.times == (0 if target == "/blobs/" or size > BLOCK else 1)


@pytest.mark.parametrize("action", [read_whole, check])
@pytest.mark.parametrize("fault", ["a flipped bit", "a shorter answer", "no such object"])
def test_what_is_wrong_twice_is_damage(
    make_s3: MakeS3, shim: Shim, action: Callable[[BlobStore, StoredBlob], bytes], fault: str
) -> None:
    store = BlobStore(make_s3(shim.url))
    blob = store.put_bytes(noise(SIZES[1]))
    shim.faults = [Fault(**{**vars(ONCE[fault]), "target": "/blobs/", "times": None})]
    with pytest.raises(IntegrityError, match="is damaged") as caught:
        action(store, blob)
    assert caught.value.code == "corrupt"


@pytest.mark.parametrize("action", [read_whole, check])
@pytest.mark.parametrize("target", ["/blobs/", "/blocks/"])
def test_a_store_that_answers_otherwise_each_time_shows_no_damage(
    make_s3: MakeS3, shim: Shim, action: Callable[[BlobStore, StoredBlob], bytes], target: str
) -> None:
    store = BlobStore(make_s3(shim.url))
    blob = store.put_bytes(noise(SIZES[1]))
    numbers = iter(range(1, 100))

    def change(data: bytes) -> bytes:
        return bytes([data[0] ^ next(numbers)]) + data[1:]

    shim.faults = [Fault(method="GET", target=target, change_answer=change)]
    with pytest.raises(UnavailableError, match="can't be read"):
        action(store, blob)
    shim.faults = []
    assert action(store, blob) == noise(SIZES[1])


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read_back_again_where_an_answer_is_wrong(make_s3: MakeS3, shim: Shim, size: int) -> None:
    store = BlobStore(make_s3(shim.url))
    shim.faults = [Fault(method="GET", target="/blobs/", times=1, change_answer=flip_first_byte)]
    blob = store.put_bytes(noise(size))
    assert shim.faults[0].times == 0
    assert read_whole(store, blob) == noise(size)


def test_an_upload_is_kept_where_an_answer_is_wrong(make_s3: MakeS3, shim: Shim) -> None:
    """Else the client would have to send all of it again, for bytes that were right."""
    store, data = BlobStore(make_s3(shim.url)), noise(SIZES[1])
    staging = store.begin_staging(len(data), BLOCK * 4, sha256_digest(data))
    store.put_part(staging, 1, [data])
    for fault in (
        Fault(method="GET", target="/blobs/", times=1, change_answer=flip_first_byte),
        Fault(method="GET", target="/blobs/", times=1, answer=cut_short),
        Fault(method="HEAD", target="/blobs/", times=1, status=404),
    ):
        shim.faults = [fault]
        with pytest.raises(UnavailableError):
            store.adopt(staging, sha256_digest(data))
    shim.faults = [Fault(method="GET", target="/blobs/", change_answer=flip_first_byte)]
    assert store.parts(staging) == {1: len(data)}
    with pytest.raises(IntegrityError) as caught:
        store.adopt(staging, sha256_digest(data))
    assert caught.value.code == "upload_mismatch"


# ------------------------------------------------------------------ what was acknowledged, and is not there


def acknowledged(asked: Asked) -> tuple[int, bytes]:
    """What S3 says of a copy, or of a PUT."""
    copied = b"<CopyObjectResult><ETag>&quot;1&quot;</ETag></CopyObjectResult>"
    return 200, copied if "x-amz-copy-source" in asked.headers else b""


@pytest.mark.parametrize("size", SIZES)
def test_a_write_that_was_acknowledged_and_lost_is_the_stores_fault(make_s3: MakeS3, shim: Shim, size: int) -> None:
    driver = make_s3(shim.url)
    store = BlobStore(driver)
    shim.faults = [Fault(method="PUT", target="/blobs/", times=1, answer=acknowledged, headers={"ETag": '"1"'})]
    with pytest.raises(UnavailableError, match="does not have what it acknowledged") as caught:
        store.put_bytes(noise(size))
    assert caught.value.code == "unavailable"
    assert "blobs/" not in str(caught.value)
    assert [name for name in everything(driver, Path()) if not name.startswith("blocks/")] == []
    assert read_whole(store, store.put_bytes(noise(size))) == noise(size)


def test_parts_that_were_acknowledged_and_lost_are_the_stores_fault(make_s3: MakeS3, shim: Shim) -> None:
    store = BlobStore(make_s3(shim.url))
    for target, method in (("partNumber=2", "PUT"), ("uploadId=", "POST")):
        body = b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
        shim.faults = [
            Fault(method=method, target=target, times=1, status=200, headers={"ETag": '"1"', **XML}, body=body)
        ]
        with pytest.raises(UnavailableError) as caught:
            store.put_bytes(noise(SIZES[1]))
        assert "incoming/" not in str(caught.value)
        assert shim.faults[0].times == 0


def test_a_copy_that_was_acknowledged_and_lost_is_the_stores_fault(make_s3: MakeS3, shim: Shim) -> None:
    store, data = BlobStore(make_s3(shim.url)), noise(1000)
    staging = store.begin_staging(len(data), BLOCK, sha256_digest(data))
    store.put_part(staging, 1, [data])
    shim.faults = [Fault(method="PUT", target="/blobs/", times=1, answer=acknowledged, headers=XML)]
    with pytest.raises(UnavailableError, match="does not have what it acknowledged") as caught:
        store.adopt(staging, sha256_digest(data))
    assert caught.value.code == "unavailable"
    assert "blobs/" not in str(caught.value)
    with store.adopt(staging, sha256_digest(data)) as staged:  # the same again: the upload is still there
        assert read_whole(store, staged.commit()) == data


@pytest.mark.parametrize("parts", [1, 3])
def test_a_part_of_an_upload_that_was_acknowledged_and_lost_is_the_stores_fault(
    make_s3: MakeS3, shim: Shim, parts: int
) -> None:
    store, data = BlobStore(make_s3(shim.url)), noise(parts * 6 * (1 << 20))
    staging = store.begin_staging(len(data), 6 << 20, sha256_digest(data))
    for number in range(1, parts + 1):
        lost = Fault(method="PUT", times=1, status=200, headers={"ETag": '"1"'})
        shim.faults = [lost] if number == parts else []
        store.put_part(staging, number, [data[(number - 1) * (6 << 20) : number * (6 << 20)]])
    with pytest.raises(UnavailableError, match=f"missing or have another length: {parts};") as caught:
        store.adopt(staging, sha256_digest(data))
    assert caught.value.code == "upload_incomplete"


# ------------------------------------------------------------------ answers that are none


def listing(*entries: str, more: str = "<IsTruncated>false</IsTruncated>") -> bytes:
    return f"<ListBucketResult>{more}{''.join(entries)}</ListBucketResult>".encode()


def entry(prefix: str, **fields: str) -> str:
    said = {"Key": f"{prefix}blobs/sha256/ab/abcd-01234567", "Size": "3", "LastModified": "2026-01-01T00:00:00Z"}
    return f"<Contents>{''.join(f'<{k}>{v}</{k}>' for k, v in (said | fields).items() if v)}</Contents>"


@pytest.mark.parametrize(
    "said",
    [
        lambda prefix: listing(entry(prefix, Size="three")),
        lambda prefix: listing(entry(prefix, Size="")),
        lambda prefix: listing(entry(prefix, Key="")),
        lambda prefix: listing(entry(prefix, LastModified="")),
        lambda prefix: listing(entry(prefix, LastModified="yesterday")),
        lambda prefix: listing(entry("elsewhere/")),
        lambda prefix: listing(entry(prefix), more="<IsTruncated>true</IsTruncated>"),
        lambda prefix: listing(entry(prefix))[:-30],
        lambda prefix: b"<html><body>Who are you?</body></html>",
        lambda prefix: b"{}",
        lambda prefix: b"",
    ],
)
def test_a_list_that_is_damaged_is_one_sentence(
    make_s3: MakeS3, shim: Shim, s3_settings: S3Place, said: Callable[[str], bytes]
) -> None:
    driver = make_s3(shim.url)
    prefix = s3_settings.url.removeprefix("s3://").partition("/")[2] + "/"
    shim.faults = [Fault(method="GET", target="list-type=2", status=200, headers=XML, body=said(prefix))]
    with pytest.raises(UnavailableError):
        list(driver.objects(""))


@pytest.mark.parametrize(
    ("fault", "action"),
    [
        (
            Fault(method="POST", status=200, headers=XML, body=b"<x/>"),
            lambda driver: driver.begin_staging(2, 1, sha256_digest(b"")),
        ),
        (Fault(method="POST", status=200), lambda driver: driver.begin_staging(2, 1, sha256_digest(b""))),
        (Fault(method="PUT", status=200), lambda driver: driver._bucket.put_part("blobs/a/b", "id", 1, b"x", 1)),
        (
            Fault(method="GET", status=200, headers=XML, body=b"<a><IsTruncated>true</IsTruncated></a>"),
            lambda driver: driver._bucket.parts("blobs/a/b", "id"),
        ),
        (
            Fault(
                method="GET",
                status=200,
                headers=XML,
                body=b"<ListPartsResult><Bucket>b</Bucket><Part><PartNumber>one</PartNumber></Part></ListPartsResult>",
            ),
            lambda driver: driver._bucket.parts("blobs/a/b", "id"),
        ),
        (
            Fault(
                method="GET", status=200, headers=XML, body=b"<x><Upload><Key>a</Key></Upload><Bucket>b</Bucket></x>"
            ),
            lambda driver: list(driver._bucket.uploads("")),
        ),
        (Fault(method="PUT", status=404), lambda driver: driver._bucket.put("blobs/a/b", b"x", 1)),
        (Fault(method="POST", status=404), lambda driver: driver.begin_staging(2, 1, sha256_digest(b""))),
    ],
)
def test_an_answer_that_is_none_is_one_sentence(
    make_s3: MakeS3, shim: Shim, fault: Fault, action: Callable[[object], object]
) -> None:
    shim.faults = [fault]
    with pytest.raises(UnavailableError):
        action(make_s3(shim.url))


def test_a_delete_of_what_is_gone_is_done(make_s3: MakeS3, shim: Shim) -> None:
    shim.faults = [Fault(method="DELETE", status=404)]
    make_s3(shim.url).delete("blobs/sha256/ab/abcd-01234567")


def test_a_read_without_a_length_is_one_sentence(make_s3: MakeS3, shim: Shim) -> None:
    driver = make_s3(shim.url)
    with driver.writer() as writer:
        writer.write(b"data")
        driver.commit([Commit(writer, "blobs/a/b")])
    shim.faults = [Fault(method="GET", status=200, headers={"Transfer-Encoding": "chunked"}, body=b"0\r\n\r\n")]
    with pytest.raises(UnavailableError):
        reading.S3Reader(driver._bucket, "blobs/a/b", 4).read_into(0, memoryview(bytearray(4)))
