"""What only a bucket does: presigned requests, copies, faults of the store and of the way to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest
from urllib3.connection import HTTPConnection

from registry.digest import sha256_digest
from registry.errors import IntegrityError, NotAllowedError, NotFoundError, RegistryError, UnavailableError, UsageError
from registry.storage import streams
from registry.storage.blobs import BlobStore
from registry.storage.driver import Commit, blocks_key
from registry.storage.s3 import S3Driver, connection, driver, reading, writing
from tests.kit.servers import S3Place, S3Server
from tests.kit.shim import Asked, Fault, Shim, flip_first_byte
from tests.storage.conftest import MakeS3, StartScript, everything

BLOCK = 256 * 1024
KEY = "blobs/sha256/ab/abcd-01234567"


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def put(driver: S3Driver, key: str, data: bytes) -> None:
    with driver.writer() as writer:
        writer.write(data)
        driver.commit([Commit(writer, key)])


def get(driver: S3Driver, key: str) -> bytes:
    reader = driver.open(key)
    data = bytearray(reader.size)
    reader.read_into(0, memoryview(data))
    return bytes(data)


def left(driver: S3Driver) -> list[str]:
    return everything(driver, Path())


@pytest.fixture
def shim(s3_settings: S3Place) -> Iterator[Shim]:
    """A way to the bucket that can be made to fail."""
    with Shim(s3_settings.endpoint) as shim:
        yield shim


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large objects of a few blocks."""
    monkeypatch.setattr(writing, "PART", BLOCK)
    monkeypatch.setattr(reading, "_PIECE", 100_000)
    monkeypatch.setattr(streams, "_PIECE", 100_000)
    monkeypatch.setattr(reading.S3Reader, "ahead", 400_000)
    monkeypatch.setattr(reading, "CARRIED_PART", 150_000)
    monkeypatch.setattr(reading, "COPIED_PART", 200_000)


def test_a_presigned_put_used_again_changes_no_blob(make_s3: MakeS3) -> None:
    store = BlobStore(make_s3())
    data = noise(2 * BLOCK)
    staging = store.begin_staging(len(data), len(data), sha256_digest(data))
    url = store.sign_part(staging, 1, 600)
    assert url is not None
    assert httpx.put(url, content=data).status_code == 200
    with store.adopt(staging, sha256_digest(data)) as staged:
        assert httpx.put(url, content=noise(2 * BLOCK, 1)).status_code == 200, "it still works"
        blob = staged.commit()
    assert httpx.put(url, content=noise(2 * BLOCK, 2)).status_code == 200
    store.check(blob)
    assert blob.key not in url


def test_a_presigned_part_used_again_changes_no_blob(make_s3: MakeS3) -> None:
    driver = make_s3()
    store = BlobStore(driver)
    data = noise(3 * BLOCK)
    staging = store.begin_staging(len(data), BLOCK, sha256_digest(data))
    urls = [str(store.sign_part(staging, number, 600)) for number in (1, 2, 3)]
    for number, url in enumerate(urls):
        assert httpx.put(url, content=data[number * BLOCK : (number + 1) * BLOCK]).status_code == 200
    with store.adopt(staging, sha256_digest(data)) as staged:
        blob = staged.commit()
    for url in urls:
        assert httpx.put(url, content=bytes(BLOCK)).status_code == 404
        for other in (url.partition("?")[0], url.replace("uploadId=", "upload="), url.replace("partNumber=", "part=")):
            assert httpx.put(other, content=bytes(BLOCK)).status_code in {400, 403}, "it is signed for this part only"
    store.check(blob)
    assert left(driver) == sorted([blob.key, blocks_key(blob.key)])


def test_parts_of_an_upload_are_joined_where_the_blob_is(make_s3: MakeS3, shim: Shim) -> None:
    """So the store copies nothing; what was joined stays where a commit breaks off, and the next one takes it."""
    driver = make_s3(shim.url)
    store = BlobStore(driver)
    data = noise(2 * BLOCK)
    staging = store.begin_staging(len(data), BLOCK, sha256_digest(data))
    for number in (1, 2):
        store.put_part(staging, number, [data[(number - 1) * BLOCK : number * BLOCK]])
    with store.adopt(staging, sha256_digest(data)) as staged:
        staged.upload = None  # as `Intake` does, whose transaction comes later
        blob = staged.commit()
    driver.drop_staging(staging)
    with store.adopt(staging, sha256_digest(data)) as staged:
        assert staged.commit().key == blob.key == staging.joined
    store.check(blob)
    assert [one for one in shim.seen("PUT", "/blobs/") if "partNumber" not in one.target] == []
    assert left(driver) == sorted([blob.key, blocks_key(blob.key)])


def test_what_was_joined_is_removed_where_its_bytes_are_stored_or_wrong(make_s3: MakeS3) -> None:
    driver = make_s3()
    store = BlobStore(driver)
    data = noise(2 * BLOCK)
    known = store.put_bytes(data)
    before = left(driver)
    for digest, sent in ((known.digest, data), (sha256_digest(b"other"), data)):
        staging = store.begin_staging(len(sent), BLOCK, digest)
        for number in (1, 2):
            store.put_part(staging, number, [sent[(number - 1) * BLOCK : number * BLOCK]])
        if digest == known.digest:
            with store.adopt(staging, digest) as staged:
                assert store.commit([staged], {digest: known})[0].key == known.key
        else:
            with pytest.raises(IntegrityError, match="does not match its announcement"):
                store.adopt(staging, digest)
        assert left(driver) == before


@pytest.mark.parametrize("part", [BLOCK, 3 * BLOCK], ids=["parts", "one part"])
def test_a_presigned_put_takes_the_length_that_was_announced(make_s3: MakeS3, part: int) -> None:
    """Else whoever may publish an adapter of some MB could fill the bucket."""
    driver = make_s3()
    store = BlobStore(driver)
    data = noise(2 * BLOCK + 100) if part == BLOCK else noise(1000)
    staging = store.begin_staging(len(data), part, sha256_digest(data))
    for number in range(1, staging.part_count + 1):
        url, length = str(store.sign_part(staging, number, 60)), staging.part_length(number)
        for wrong in (0, length - 1, length + 1, 40 * length):
            assert httpx.put(url, content=bytes(wrong)).status_code == 403
        assert httpx.put(url, content=iter([bytes(length)])).status_code in {403, 411}  # in chunks, without a length
        assert store.parts(staging) == {}
    for number in range(1, staging.part_count + 1):
        start = (number - 1) * part
        assert httpx.put(str(store.sign_part(staging, number, 60)), content=data[start : start + part]).is_success
    with store.adopt(staging, sha256_digest(data)) as staged:
        store.check(staged.commit())


def test_a_part_of_another_length_is_missing(make_s3: MakeS3) -> None:
    """Of a store that does not look at what was signed."""
    driver = make_s3()
    store = BlobStore(driver)
    staging = store.begin_staging(1000, 1000, sha256_digest(b""))
    shorter = replace(staging, size=999, part_size=999)
    assert httpx.put(str(store.sign_part(shorter, 1, 60)), content=bytes(999)).is_success
    assert store.parts(staging) == {1: 999}
    with pytest.raises(UnavailableError, match="missing or have another length: 1;"):
        store.adopt(staging, sha256_digest(bytes(1000)))


def test_a_presigned_get_gives_the_blob_by_range_and_under_a_name(make_s3: MakeS3) -> None:
    store = BlobStore(make_s3())
    data = noise(1000)
    blob = store.put_bytes(data)
    url = store.sign_get(blob, 60, "ein Öl.bin")
    assert url is not None
    assert httpx.get(url).content == data
    assert httpx.get(url, headers={"Range": "bytes=10-19"}).content == data[10:20]
    assert "testsecret1" not in url


def test_clients_get_the_public_address_and_the_service_keeps_its_own(
    make_s3: MakeS3, shim: Shim, s3_settings: S3Place
) -> None:
    """The signature is about the address: a request that was signed for one does not hold at the other."""
    driver = make_s3(public_url=shim.url)
    store = BlobStore(driver)
    blob = store.put_bytes(b"data")
    assert shim.seen() == []
    url = str(store.sign_get(blob, 60))
    assert url.startswith(shim.url)
    assert httpx.get(url).content == b"data"
    assert httpx.get(url.replace(shim.url, s3_settings.endpoint)).status_code == 403


def test_nothing_is_signed_where_blobs_go_through_the_service(make_s3: MakeS3) -> None:
    driver = make_s3(proxy_blobs=True)
    staging = driver.begin_staging(10, 10, sha256_digest(b""))
    assert driver.sign_part(staging, 1, 60) is None
    assert driver.sign_get(KEY, 60, name=None) is None
    driver.put_part(staging, 1, [b"0123456789"])
    assert driver.parts(staging) == {1: 10}


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3])
def test_large_objects_are_written_in_parts_and_copied(make_s3: MakeS3, shim: Shim, size: int) -> None:
    driver = make_s3(shim.url)
    store = BlobStore(driver)
    blob = store.put_bytes(noise(size))
    store.check(blob)
    assert (shim.seen("PUT", "incoming/") != []) == (size >= BLOCK)
    assert [name for name in left(driver) if name.startswith("incoming/")] == []
    with driver.writer() as writer:
        writer.write(noise(size))
        assert left(driver) == sorted(one.key for one in store.objects()) or size >= BLOCK
        reader = writer.open()
        found = bytearray(size)
        reader.read_into(0, memoryview(found))
        assert found == noise(size)
    assert [name for name in left(driver) if name.startswith("incoming/")] == []


@pytest.mark.usefixtures("small_pieces")
def test_what_is_too_large_for_one_copy_is_carried_where_the_store_copies_no_parts(
    make_s3: MakeS3, shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone takes a copy of a part for a part of no bytes."""
    monkeypatch.setattr(reading, "SINGLE_COPY", 2 * BLOCK)
    driver = make_s3(shim.url)
    store = BlobStore(driver)
    data = noise(3 * BLOCK + 1)
    for copied_by_store in (1, 0):  # it is tried once
        shim.forget()
        store.check(store.put_bytes(data))
        sent = [one.sent for one in shim.seen("PUT", "blobs/.*partNumber")]
        assert sorted(sent) == sorted([0] * copied_by_store + [150_000] * 5 + [len(data) - 750_000])
    assert not [name for name in left(driver) if "unfinished" in name or not name.startswith("bl")]


@pytest.mark.usefixtures("small_pieces")
def test_what_is_too_large_for_one_copy_is_copied_in_parts_by_the_store(
    make_s3: MakeS3, shim: Shim, monkeypatch: pytest.MonkeyPatch, s3_settings: S3Place
) -> None:
    """rclone can't, so the shim does it in its place."""
    monkeypatch.setattr(reading, "SINGLE_COPY", 2 * BLOCK)
    own = make_s3()._bucket
    ranges: list[str] = []

    def copy_part(asked: Asked) -> tuple[int, bytes]:
        bucket, _, key = unquote(asked.headers["x-amz-copy-source"]).partition("/")
        assert bucket == s3_settings.bucket
        ranges.append(asked.headers["x-amz-copy-source-range"])
        first, _, last = ranges[-1].removeprefix("bytes=").partition("-")
        part = (s3_settings.folder / key).read_bytes()[int(first) : int(last) + 1]
        query = parse_qs(urlsplit(asked.target).query)
        target = urlsplit(asked.target).path.removeprefix(f"/{bucket}/team/")
        tag = own.put_part(target, query["uploadId"][0], int(query["partNumber"][0]), part, len(part))
        return 200, f"<CopyPartResult><ETag>{tag.replace(chr(34), '&quot;')}</ETag></CopyPartResult>".encode()

    shim.faults.append(Fault(method="PUT", target="blobs/.*partNumber", answer=copy_part))
    store = BlobStore(make_s3(shim.url))
    data = noise(3 * BLOCK)
    blob = store.put_bytes(data)
    store.check(blob)
    assert sorted(ranges) == ["bytes=0-199999", "bytes=200000-399999", "bytes=400000-599999", "bytes=600000-786431"]


def test_a_copy_that_breaks_leaves_nothing(make_s3: MakeS3, shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make_s3(shim.url)
    put(driver, KEY, noise(BLOCK))
    monkeypatch.setattr(reading, "SINGLE_COPY", 10)
    monkeypatch.setattr(reading, "CARRIED_PART", BLOCK // 4)
    shim.faults = [Fault(target="partNumber=3", status=503)]
    with pytest.raises(UnavailableError, match="503"):
        reading.copy_object(driver._bucket, KEY, f"{KEY}9", BLOCK)
    assert left(driver) == [KEY]


def test_the_store_is_asked_again_when_it_is_busy(make_s3: MakeS3, shim: Shim) -> None:
    driver = make_s3(shim.url, attempts=2)
    shim.faults = [Fault(method="PUT", times=1, status=503), Fault(method="GET", times=1, lose_answer=True)]
    put(driver, KEY, b"data")
    assert [one.status for one in shim.seen("PUT")] == [503, 200]
    assert get(driver, KEY) == b"data"


def test_a_lost_answer_to_a_put_is_no_object_of_someone_else(make_s3: MakeS3, shim: Shim) -> None:
    driver = make_s3(shim.url, attempts=2)
    shim.faults = [Fault(method="PUT", times=1, lose_answer=True)]
    put(driver, KEY, b"data")
    assert get(driver, KEY) == b"data"


@pytest.mark.usefixtures("small_pieces")
def test_a_read_that_breaks_goes_on_where_it_broke(make_s3: MakeS3, shim: Shim) -> None:
    driver = make_s3(shim.url)
    data = noise(3 * BLOCK)
    put(make_s3(), KEY, data)
    shim.faults = [Fault(method="GET", times=3, cut_answer=60_000)]
    assert get(driver, KEY) == data
    assert sum(one.received for one in shim.seen("GET")) == len(data)
    shim.faults = [Fault(method="GET", cut_answer=10_000)]
    with pytest.raises(UnavailableError, match="broke the connection 4 times"):
        get(driver, KEY)


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_commit_of_several_fails_with_any_of_them(make_s3: MakeS3, shim: Shim, broken: int) -> None:
    """Else a row would name an object that is not there."""
    driver, keys = make_s3(shim.url, attempts=1), [f"{KEY}-{number}" for number in range(3)]
    shim.faults = [Fault(method="PUT", target=keys[broken], status=503)]
    with ExitStack() as stack:
        writers = [stack.enter_context(driver.writer()) for _ in keys]
        for writer in writers:
            writer.write(b"data")
        with pytest.raises(UnavailableError, match="503"):
            driver.commit([Commit(writer, key) for writer, key in zip(writers, keys, strict=True)])
    assert driver.size(keys[broken]) is None


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("broken", [1, 2, 3])
def test_an_object_of_parts_fails_with_any_of_them(make_s3: MakeS3, shim: Shim, broken: int) -> None:
    driver = make_s3(shim.url, attempts=1)
    shim.faults = [Fault(method="PUT", target=f"partNumber={broken}", status=503)]
    with pytest.raises(UnavailableError, match="503"):
        put(driver, KEY, noise(2 * BLOCK + 5))
    assert left(driver) == []


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_read_of_several_pieces_fails_with_any_of_them(make_s3: MakeS3, shim: Shim, broken: int) -> None:
    """It is an outage, of the one piece: what lies in the buffer is not taken for what is stored."""
    driver, data = make_s3(shim.url, attempts=1), noise(250_000)
    put(make_s3(), KEY, data)

    def answer(asked: Asked) -> tuple[int, bytes]:
        first, _, last = asked.headers["range"].removeprefix("bytes=").partition("-")
        return (503, b"") if int(first) == broken * 100_000 else (206, data[int(first) : int(last) + 1])

    shim.faults = [Fault(method="GET", target=KEY, answer=answer)]
    with pytest.raises(UnavailableError, match="503"):
        get(driver, KEY)


def test_reads_go_past_the_layers_that_copy_and_keep_their_connection(
    make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other versions of boto3 and urllib3 they would go through these: slower, not wrong."""
    driver, data = make_s3(), noise(3 << 20)
    put(driver, KEY, data)
    answers: list[HTTPResponse | None] = []
    connections: list[HTTPConnection] = []
    inner, connect = reading._inner, HTTPConnection.connect

    def noted(body: Any) -> HTTPResponse | None:
        answers.append(inner(body))
        return answers[-1]

    def connected(self: HTTPConnection) -> None:
        connections.append(self)
        connect(self)

    monkeypatch.setattr(reading, "_inner", noted)
    monkeypatch.setattr(HTTPConnection, "connect", connected)
    for _ in range(3):
        assert get(driver, KEY) == data
    monkeypatch.setattr(reading, "_inner", lambda _body: None)
    assert get(driver, KEY) == data
    assert [answer is not None and answer.isclosed() for answer in answers] == [True] * 3
    assert len(connections) <= 1


def test_other_bytes_than_were_stored_are_never_handed_out(make_s3: MakeS3, shim: Shim) -> None:
    store = BlobStore(make_s3(shim.url))
    data = noise(3 * BLOCK)
    blob = store.put_bytes(data)
    with store.open(blob) as reader:
        reader.read_into(0, memoryview(bytearray(1)))  # the list of blocks is read
        shim.faults = [Fault(method="GET", change_answer=flip_first_byte)]
        buffer = bytearray(2 * BLOCK)
        with pytest.raises(UnavailableError, match="bytes 262144 to 524288 are not"):
            reader.read_into(BLOCK, memoryview(buffer))
        assert not any(buffer)
    with pytest.raises(UnavailableError, match="digest of its bytes"):
        store.check(blob)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("size", [1000, 3 * BLOCK])
def test_what_the_store_does_not_give_back_as_it_was_sent_is_not_committed(
    make_s3: MakeS3, shim: Shim, size: int
) -> None:
    driver = make_s3(shim.url)
    store = BlobStore(driver)
    shim.faults = [Fault(method="GET", target="blobs/", change_answer=flip_first_byte)]
    with pytest.raises(UnavailableError, match="different bytes each time"):
        store.put_bytes(noise(size))
    shim.faults = [Fault(method="PUT", target="/(blobs|incoming)/", change_request=flip_first_byte)]
    with pytest.raises(UnavailableError, match="other bytes than were sent"):
        store.put_bytes(noise(size))
    shim.faults = []
    assert [name for name in left(driver) if not name.startswith("blocks/")] == []
    store.check(store.put_bytes(noise(size)))


@pytest.mark.parametrize(
    ("status", "method", "kind", "code", "words"),
    [
        (403, "PUT", NotAllowedError, "read_only", "does not allow these credentials to write"),
        (403, "GET", UnavailableError, "unavailable", "can't be read with these credentials"),
        (507, "PUT", UnavailableError, "disk_full", "no space left"),
        (500, "GET", UnavailableError, "unavailable", "can't answer now"),
        (400, "PUT", UnavailableError, "unavailable", "refused a request"),
    ],
)
def test_every_refusal_is_one_sentence_that_names_the_place(
    make_s3: MakeS3, shim: Shim, status: int, method: str, kind: type[RegistryError], code: str, words: str
) -> None:
    driver = make_s3(shim.url)
    put(driver, KEY, b"data")
    shim.faults = [Fault(method=method, status=status)]
    with pytest.raises(kind, match=words) as caught:
        get(driver, KEY) if method == "GET" else put(driver, f"{KEY}9", b"more")
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert driver.place in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.slow
def test_a_store_that_is_down_or_slow(make_s3: MakeS3, private_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    place = private_s3.place()
    with Shim(private_s3.endpoint) as shim:
        monkeypatch.setattr(connection, "_READ_TIMEOUT", 0.5)
        monkeypatch.setattr(connection, "_PING_READ_TIMEOUT", 0.5)
        slow = make_s3(shim.url, url=place.url, attempts=2)
        shim.faults = [Fault(delay=1.5)]
        asked: list[tuple[Callable[[], object], int]] = [(slow.ping, 1), (lambda: slow.size(KEY), 2)]
        for ask, times in asked:
            with pytest.raises(UnavailableError, match=f"can't be reached at {shim.url}.*Timeout"):
                ask()
            assert len(shim.seen()) == times, "who asks whether it is there is told soon"
            shim.forget()
    driver = make_s3(private_s3.endpoint, url=place.url)
    driver.ping()
    private_s3.stop()
    actions: list[Callable[[], object]] = [driver.ping, lambda: driver.open(KEY), lambda: driver.size(KEY)]
    actions += [lambda: put(driver, KEY, b""), lambda: driver.delete(KEY), lambda: list(driver.objects(""))]
    actions += [lambda: driver.begin_staging(2, 1, sha256_digest(b"")), driver.clear_litter]
    for action in actions:
        with pytest.raises(UnavailableError, match=f"can't be reached at {private_s3.endpoint}"):
            action()


def test_a_bucket_that_is_not_there_is_no_missing_object(make_s3: MakeS3, s3_settings: S3Place) -> None:
    driver = make_s3(url="s3://no-such-bucket/team")
    actions: list[Callable[[], object]] = [driver.ping, lambda: driver.open(KEY), lambda: driver.size(KEY)]
    actions += [lambda: put(driver, KEY, b""), lambda: list(driver.objects(""))]
    for action in actions:
        with pytest.raises(UnavailableError, match=f"no bucket no-such-bucket at {s3_settings.endpoint}"):
            action()


def test_wrong_and_missing_credentials(make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the secret")
    driver = make_s3()
    for action in (
        lambda: driver.begin_staging(2, 1, sha256_digest(b"")),
        lambda: driver.delete(KEY),
        lambda: list(driver.objects("")),
    ):
        with pytest.raises(UnavailableError, match=r"refuses the credentials \(SignatureDoesNotMatch\)") as caught:
            action()
        assert "not the secret" not in str(caught.value)
    with pytest.raises(UnavailableError, match="can't be read with these credentials"):
        put(driver, KEY, b"")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UnavailableError, match="no credentials"):
        make_s3().ping()


def test_an_object_that_goes_while_it_is_read(make_s3: MakeS3) -> None:
    driver = make_s3()
    store = BlobStore(driver)
    blob = store.put_bytes(noise(1000))
    with store.open(blob) as reader:
        driver.delete(blob.key)
        with pytest.raises(IntegrityError, match="missing"):
            reader.read_into(0, memoryview(bytearray(10)))
    with pytest.raises(NotFoundError, match=f"no object {blob.key}"):
        driver.open(blob.key)


DIES = """
import os, sys
from registry.storage.blobs import BlobStore
from registry.storage.s3 import S3Driver, writing
writing.PART = 1000
driver = S3Driver(sys.argv[1])
writer = driver.writer().__enter__()
writer.write(bytes(5000))
writer.open() if sys.argv[2] == "joined" else writer._incoming._going[-1].result()
os._exit(9)
"""


@pytest.mark.parametrize("way", ["joined", "unfinished"])
def test_what_a_killed_writer_left_is_cleared_when_it_is_old(
    make_s3: MakeS3, s3_settings: S3Place, monkeypatch: pytest.MonkeyPatch, start_script: StartScript, way: str
) -> None:
    bucket = make_s3()
    staging = bucket.begin_staging(2, 1, sha256_digest(b""))
    assert start_script(DIES, s3_settings.url, way).wait() == 9
    assert len(left(bucket)) == 2
    assert bucket.clear_litter() == 0, "it may be a live writer's"
    monkeypatch.setattr(driver, "LITTER_AGE", -timedelta(hours=1))
    assert bucket.clear_litter() == 1
    assert left(bucket) == [f"{staging.joined} unfinished"], "uploads of clients have a time of their own"


def test_what_others_upload_into_the_bucket_is_left_alone(make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry at the top of a bucket that is not for it alone."""
    bucket = make_s3()
    upload = bucket._bucket.begin("backups/of-someone-else")
    monkeypatch.setattr(driver, "LITTER_AGE", -timedelta(hours=1))
    assert bucket.clear_litter() == 0
    assert left(bucket) == ["backups/of-someone-else unfinished"]
    bucket._bucket.abort("backups/of-someone-else", upload)


@pytest.mark.parametrize(
    ("endpoint", "style", "host"),
    [
        ("http://127.0.0.1:9000", None, "127.0.0.1"),
        ("http://localhost:9000", None, "localhost"),
        ("http://s3:9000", None, "s3"),
        ("https://objects.example", None, "objects.example"),
        ("https://objects.example", "virtual", "weights.objects.example"),
        ("https://s3.eu-central-1.amazonaws.com", None, "weights.s3.eu-central-1.amazonaws.com"),
        ("https://s3.eu-central-1.amazonaws.com", "path", "s3.eu-central-1.amazonaws.com"),
        (None, None, "weights.s3.eu-central-1.amazonaws.com"),
    ],
)
def test_the_bucket_is_named_in_the_path_or_in_the_host(
    s3_settings: S3Place,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    endpoint: str | None,
    style: str | None,
    host: str,
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    if endpoint is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    if style is not None:
        (tmp_path / "config").write_text(f"[default]\ns3 =\n  addressing_style = {style}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    made = S3Driver("s3://weights/team")
    url = urlsplit(str(made.sign_get(KEY, 60, name=None)))
    made.close()
    assert url.hostname == host
    assert url.path == (f"/team/{KEY}" if host.startswith("weights.") else f"/weights/team/{KEY}")
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url.query


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://ab", "s3://UPPER", "s3://bucket/a//b", "s3://bucket/../x", "https://bucket", "s3://k:s@bucket"],
)
def test_urls_that_name_no_bucket(url: str) -> None:
    with pytest.raises(UsageError, match="s3://BUCKET"):
        S3Driver(url)


def test_settings_that_can_not_be_used(make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL"):
        make_s3("127.0.0.1:9000")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match=r"nobody.*AWS_PROFILE"):
        make_s3()


def test_no_secret_of_an_endpoint_is_shown(make_s3: MakeS3) -> None:
    with pytest.raises(UnavailableError) as caught:
        make_s3("http://user:password@127.0.0.1:1").ping()
    assert "password" not in str(caught.value)


def test_botocore_is_loaded_with_the_first_driver_only(start_script: StartScript) -> None:
    script = "import sys, registry.storage.blobs, registry.storage.s3\nprint({'boto3', 'botocore'} & {*sys.modules})"
    assert start_script(script).communicate() == ("set()\n", "")
