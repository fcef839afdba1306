"""Answers of a store that are wrong though what it keeps is right: asked for again, and never called damage.

And what a store says that it has done, and has not: that is its fault, and nobody is told of a key or of a mistake.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.digest import sha256_digest
from registry.errors import IntegrityError, NotFoundError, UnavailableError
from registry.files.source import ByteSource, read_range
from registry.storage.blobs import BlobStore, StoredBlob
from registry.storage.driver import Commit, blocks_key
from registry.storage.s3 import reading, writing
from registry.storage.staging import Staging
from tests.kit.servers import S3Place
from tests.kit.shim import Asked, Fault, Shim, flip_first_byte
from tests.storage.conftest import MakeS3, everything

BLOCK = 256 * 1024
SIZES = [1000, 3 * BLOCK + 17]
OWN = r"/blobs/[^?]*$"  # of an object, and not of the parts of an upload
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


@pytest.mark.long_but("786449", "read_whole")
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


def flip_last_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


SLOWLY = [pytest.param(action, marks=pytest.mark.slow) for action in (read_edge, find)]


@pytest.mark.parametrize("action", [read_whole, check, *SLOWLY])
def test_what_stays_wrong_on_its_way_is_no_damage(
    make_s3: MakeS3, shim: Shim, action: Callable[[BlobStore, StoredBlob], bytes]
) -> None:
    """The same bit of each answer, or a request that is never answered: the blob lies there as it was stored."""
    store = BlobStore(make_s3(shim.url))
    blob = store.put_bytes(noise(SIZES[1]))
    last_bit = Fault(method="GET", change_answer=flip_last_byte)
    for target in ("/blobs/", "/blocks/"):
        for fault in (*ONCE.values(), last_bit):
            shim.faults = [Fault(**{**vars(fault), "target": target, "times": None})]
            with pytest.raises(UnavailableError) as caught:
                action(store, blob)
            assert caught.value.code == "unavailable"
    shim.faults = []
    assert action(store, blob) == noise(SIZES[1])


@pytest.mark.parametrize("action", [read_whole, check])
def test_what_is_wrong_where_it_lies_is_damage(
    make_s3: MakeS3, s3_settings: S3Place, action: Callable[[BlobStore, StoredBlob], bytes]
) -> None:
    store = BlobStore(make_s3())
    for size in SIZES:
        blob = store.put_bytes(noise(size))
        for key in (blob.key, blocks_key(blob.key))[: 1 + (size > BLOCK)]:
            (file,) = s3_settings.folder.rglob(key)
            whole = file.read_bytes()
            file.chmod(0o644)
            for damaged in (flip_first_byte(whole), flip_last_byte(whole), whole[:-1], whole + b"x", None):
                if damaged is None:
                    file.unlink()
                else:
                    file.write_bytes(damaged)
                with pytest.raises(IntegrityError, match=r"is damaged.*restore this file") as caught:
                    action(store, blob)
                assert caught.value.code == "corrupt"
            file.write_bytes(whole)
        assert action(store, blob) == noise(size)


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
    with pytest.raises(UnavailableError):
        store.adopt(staging, sha256_digest(data))
    shim.faults = []
    assert store.parts(staging) == {1: len(data)}
    with store.adopt(staging, sha256_digest(data)) as staged:
        assert staged.size == len(data)


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


JOINED = b"<CompleteMultipartUploadResult><ETag>&quot;1-2&quot;</ETag></CompleteMultipartUploadResult>"
REFUSED = b"<Error><Code>InternalError</Code><Message>no</Message></Error>"


def sent(store: BlobStore, data: bytes) -> Staging:
    """An upload whose parts are there, to be joined in place."""
    staging = store.begin_staging(len(data), BLOCK, sha256_digest(data))
    for number in range(1, staging.part_count + 1):
        store.put_part(staging, number, [data[(number - 1) * BLOCK : number * BLOCK]])
    assert staging.joined is not None
    return staging


@pytest.mark.parametrize("body", [REFUSED, JOINED, b""], ids=["a refusal", "a lie", "nothing"])
def test_parts_that_are_said_to_be_joined_and_are_not_are_the_stores_fault(
    make_s3: MakeS3, shim: Shim, body: bytes
) -> None:
    driver, data = make_s3(shim.url), noise(SIZES[1])
    store = BlobStore(driver)
    staging = sent(store, data)
    shim.faults = [Fault(method="POST", target="uploadId=", status=200, headers=XML, body=body)]
    for action in (
        lambda: store.adopt(staging, sha256_digest(data)),
        lambda: store.read_upload(staging, sha256_digest(data), lambda source: read_range(source, 0, 8)),
    ):
        with pytest.raises(UnavailableError) as caught:
            action()
        assert caught.value.code == "unavailable"
    assert [name for name in everything(driver, Path()) if "unfinished" not in name] == []
    shim.faults = []
    with store.adopt(staging, sha256_digest(data)) as staged:  # the same again: the parts are still there
        assert read_whole(store, staged.commit()) == data


def test_parts_that_were_joined_to_something_else_are_the_stores_fault(make_s3: MakeS3, shim: Shim) -> None:
    """Nothing is left, so that the client sends them again, and does not hear that it had sent others."""
    direct, driver, data = make_s3(), make_s3(shim.url), noise(SIZES[1])
    store = BlobStore(driver)
    staging = sent(store, data)
    key, upload = staging.upload or ("", "")

    def joined(_: Asked) -> tuple[int, bytes]:
        direct._bucket.abort(key, upload)
        direct._bucket.put(key, flip_last_byte(data), len(data))
        return 200, JOINED

    shim.faults = [Fault(method="POST", target="uploadId=", times=1, headers=XML, answer=joined)]
    with pytest.raises(NotFoundError, match="start the upload again"):
        store.adopt(staging, sha256_digest(data))
    assert everything(driver, Path()) == []


def test_what_a_client_sent_wrong_is_no_fault_of_the_store(make_s3: MakeS3, shim: Shim) -> None:
    for size, part in ((SIZES[1], BLOCK), (1000, BLOCK)):
        store, data = BlobStore(make_s3(shim.url)), noise(size)
        staging = store.begin_staging(size, part, sha256_digest(data))
        for number in range(1, staging.part_count + 1):
            store.put_part(staging, number, [flip_first_byte(data[(number - 1) * BLOCK : number * BLOCK])])
        with pytest.raises(IntegrityError) as caught:
            store.adopt(staging, sha256_digest(data))
        assert caught.value.code == "upload_mismatch"


def test_a_copy_of_something_else_is_the_stores_fault(make_s3: MakeS3, shim: Shim) -> None:
    direct, driver, data = make_s3(), make_s3(shim.url), noise(1000)
    store = BlobStore(driver)
    staging = store.begin_staging(len(data), BLOCK, sha256_digest(data))
    store.put_part(staging, 1, [data])

    def copied(asked: Asked) -> tuple[int, bytes]:
        key = asked.target.partition("?")[0].partition("/blobs/")[2]
        direct._bucket.put(f"blobs/{key}", flip_last_byte(data), len(data))
        return acknowledged(asked)

    shim.faults = [Fault(method="PUT", target="/blobs/", times=1, answer=copied, headers=XML)]
    with pytest.raises(UnavailableError, match="does not have what it acknowledged"):
        store.adopt(staging, sha256_digest(data))
    assert everything(driver, Path()) == [staging.key]
    with store.adopt(staging, sha256_digest(data)) as staged:
        assert read_whole(store, staged.commit()) == data


def test_an_etag_of_something_else_says_nothing_about_the_bytes(make_s3: MakeS3, shim: Shim) -> None:
    """They are read back anyway."""
    store, data = BlobStore(make_s3(shim.url)), noise(SIZES[1])
    staging = sent(store, data)
    shim.faults = [
        Fault(method="POST", target="uploadId=", times=1, lose_answer=True, status=200, headers=XML, body=JOINED)
    ]
    with store.adopt(staging, sha256_digest(data)) as staged:
        assert read_whole(store, staged.commit()) == data


# ------------------------------------------------------------------ bytes that are not published yet


def flip_at_random(data: bytes) -> bytes:
    """Another bit of each answer."""
    at = random.randrange(8 * len(data))
    return bytes([*data[: at // 8], data[at // 8] ^ 1 << at % 8, *data[at // 8 + 1 :]])


@pytest.mark.parametrize("part", [BLOCK, 4 * BLOCK], ids=["joined", "copied"])
def test_what_is_read_of_an_upload_is_what_was_sent(make_s3: MakeS3, shim: Shim, part: int) -> None:
    """Its header, before anything has hashed it; and after that whatever a publish reads."""
    store, data = BlobStore(make_s3(shim.url)), noise(SIZES[1])
    staging = store.begin_staging(len(data), part, sha256_digest(data))
    for number in range(1, staging.part_count + 1):
        store.put_part(staging, number, [data[(number - 1) * part : number * part]])

    def head(source: ByteSource) -> bytes:
        return bytes(read_range(source, 0, 100_000))

    def flipping(change: Callable[[bytes], bytes], times: int | None) -> Fault:
        shim.faults = [Fault(method="GET", target=OWN, times=times, change_answer=change)]
        return shim.faults[0]

    changes = (flip_first_byte, flip_last_byte, flip_at_random)
    for change in changes:
        flipping(change, 1)
        assert store.read_upload(staging, sha256_digest(data), head) == data[:100_000]
        flipping(change, None)
        with pytest.raises(UnavailableError, match="different bytes each time"):
            store.read_upload(staging, sha256_digest(data), head)
    shim.faults = []
    with store.adopt(staging, sha256_digest(data)) as staged:
        for change in changes:
            with staged.open() as source:
                once = flipping(change, 1)
                assert bytes(read_range(source, 5, len(data) - 5)) == data[5:-5]
                assert once.times == 0
            flipping(change, None)
            with staged.open() as source, pytest.raises(UnavailableError):
                read_range(source, 5, len(data) - 5)
        shim.faults = []
        assert read_whole(store, staged.commit()) == data


def test_bytes_that_the_store_changed_before_they_had_a_name_are_its_fault(
    make_s3: MakeS3, s3_settings: S3Place
) -> None:
    """Nothing can be restored of what was never published."""
    store, data = BlobStore(make_s3()), noise(SIZES[1])
    with store.adopt(sent(store, data), sha256_digest(data)) as staged:
        (file,) = s3_settings.folder.rglob(staged.key)
        file.chmod(0o644)
        file.write_bytes(flip_first_byte(data))
        with staged.open() as source, pytest.raises(UnavailableError, match="does not have what it acknowledged"):
            read_range(source, 0, 100)


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
