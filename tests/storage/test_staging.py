"""The conformance suite of uploads by clients: every driver of `conftest.KINDS` does all of this."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from registry.digest import BlobRef, sha256_digest
from registry.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from registry.storage.blobs import BlobStore
from registry.storage.driver import Commit, blocks_key
from registry.storage.staging import MOST_PARTS, Staging, StagingDriver
from registry.storage.streams import BLOCK

PART = 100_000
KEY = "blobs/sha256/ab/abcd-01234567"
Left = Callable[[], list[str]]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def part_of(data: bytes, staging: Staging, number: int) -> bytes:
    start = (number - 1) * staging.part_size
    return data[start : start + staging.part_length(number)]


def send(store: StagingDriver | BlobStore, staging: Staging, number: int, data: bytes) -> None:
    """As a client does: by a presigned request where there are such, else through the service."""
    url = store.sign_part(staging, number, 60)
    if url is None:
        store.put_part(staging, number, [data[:1000], data[1000:]])
    else:
        assert httpx.put(url, content=data).status_code == 200


def send_all(store: StagingDriver | BlobStore, data: bytes, part_size: int = PART) -> Staging:
    staging = store.begin_staging(len(data), part_size, sha256_digest(data))
    for number in range(1, staging.part_count + 1):
        send(store, staging, number, part_of(data, staging, number))
    return staging


def read_all(store: BlobStore, place: BlobRef) -> bytes:
    data = bytearray(place.size)
    with store.open(place) as reader:
        reader.read_into(0, memoryview(data))
    return bytes(data)


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 7 * PART + 5])
def test_an_upload_becomes_a_blob(store: BlobStore, left: Left, size: int) -> None:
    data = noise(size)
    staging = send_all(store, data)
    assert store.parts(staging) == {
        number: staging.part_length(number) for number in range(1, max(1, -(-size // PART)) + 1)
    }
    assert list(store.objects()) == []
    seen, steps = bytearray(), list[int]()

    def watch(offset: int, chunk: memoryview) -> None:
        assert offset == len(seen)
        seen.extend(chunk)

    with store.adopt(staging, sha256_digest(data), watch=watch, advance=steps.append) as staged:
        blob = staged.commit()
    assert (bytes(seen), sum(steps)) == (data, size)
    assert (blob.digest, blob.size, blob.stored, blob.stored_by) == (sha256_digest(data), size, size, "copy")
    assert read_all(store, blob) == data
    store.check(blob)
    assert left() == sorted([blob.key, *([blocks_key(blob.key)] if size > BLOCK else [])])


def test_parts_go_through_the_service_on_every_driver(store: BlobStore) -> None:
    data = noise(3 * PART + 7)
    staging = store.begin_staging(len(data), PART, sha256_digest(data))
    for number in (3, 1, 4, 2):
        store.put_part(staging, number, iter([part_of(data, staging, number)]))
    with store.adopt(staging, sha256_digest(data)) as staged:
        assert read_all(store, staged.commit()) == data


def test_a_part_is_sent_again_and_the_last_one_counts_or_is_refused(store: BlobStore) -> None:
    data = noise(2 * PART)
    staging = send_all(store, data[:PART] + bytes(PART))
    try:
        store.put_part(staging, 2, [data[PART:]])
    except UnavailableError as refused:
        assert "501" in str(refused), "rclone takes each part once; it says so"  # noqa: PT017
        data = data[:PART] + bytes(PART)
    with store.adopt(staging, sha256_digest(data)) as staged:
        assert read_all(store, staged.commit()) == data


def test_a_body_that_breaks_leaves_no_part_and_can_be_sent_again(store: BlobStore, left: Left) -> None:
    data = noise(2 * PART + 3)
    staging = store.begin_staging(len(data), PART, sha256_digest(data))
    store.put_part(staging, 1, [data[:PART]])
    before = left()

    def broken() -> Iterator[bytes]:
        yield data[PART : PART + 500]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put_part(staging, 2, broken())
    for chunks in ([data[:500]], [data[:PART], b"x"], []):
        with pytest.raises(UsageError, match="Part 2 of this upload has"):
            store.put_part(staging, 2, chunks)
    assert store.parts(staging) == {1: PART}
    assert left() == before
    for number in (2, 3):
        store.put_part(staging, number, [part_of(data, staging, number)])
    with store.adopt(staging, sha256_digest(data)) as staged:
        assert read_all(store, staged.commit()) == data


def test_missing_parts_are_named_and_the_upload_goes_on(store: BlobStore, left: Left) -> None:
    data = noise(5 * PART)
    staging = store.begin_staging(len(data), PART, sha256_digest(data))
    for number in (1, 3, 4):
        send(store, staging, number, part_of(data, staging, number))
    before = left()
    with pytest.raises(UnavailableError, match="missing or have another length: 2, 5;") as caught:
        store.adopt(staging, sha256_digest(data))
    assert caught.value.code == "upload_incomplete"
    assert left() == before
    resumed = Staging(staging.key, staging.multipart, staging.size, staging.part_size)
    for number in set(range(1, 6)) - set(store.parts(resumed)):
        send(store, resumed, number, part_of(data, resumed, number))
    with store.adopt(resumed, sha256_digest(data)) as staged:
        assert read_all(store, staged.commit()) == data


@pytest.mark.parametrize("size", [PART, 3 * PART])
def test_other_bytes_of_the_right_length_are_refused_and_nothing_is_left(
    store: BlobStore, left: Left, size: int
) -> None:
    staging = send_all(store, noise(size, 1))
    with pytest.raises(IntegrityError, match="does not match its announcement") as caught:
        store.adopt(staging, sha256_digest(noise(size, 2)))
    assert caught.value.code == "upload_mismatch"
    assert sha256_digest(noise(size, 2)) in str(caught.value)
    assert left() == []


@pytest.mark.parametrize("size", [PART, 3 * PART])
def test_an_adopted_blob_that_is_not_committed_leaves_the_upload(store: BlobStore, left: Left, size: int) -> None:
    data = noise(size)
    staging = send_all(store, data)

    def refuse(offset: int, chunk: memoryview) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.adopt(staging, sha256_digest(data), watch=refuse)
    with store.adopt(staging, sha256_digest(data)):
        pass
    assert all(name.startswith("staging/") or name == staging.joined for name in left())
    assert sum(store.parts(staging).values()) == size
    with store.adopt(staging, sha256_digest(data)) as staged:
        blob = staged.commit()
    assert left() == sorted([blob.key, *([blocks_key(blob.key)] if size > BLOCK else [])])


def test_an_upload_of_known_bytes_is_dropped(store: BlobStore, left: Left) -> None:
    data = noise(3 * PART)
    known = store.put_bytes(data)
    before = left()
    staging = send_all(store, data)
    with store.adopt(staging, known.digest) as staged:
        [blob] = store.commit([staged], {known.digest: known})
    assert (blob.key, blob.stored_by) == (known.key, "none")
    assert left() == before


def test_an_upload_that_is_finished_or_dropped_is_gone(driver: StagingDriver) -> None:
    data = noise(2 * PART)
    finished, dropped = send_all(driver, data), send_all(driver, data)
    store = BlobStore(driver)
    with store.adopt(finished, sha256_digest(data)) as staged:
        blob = staged.commit()
    driver.drop_staging(dropped)
    driver.drop_staging(dropped)
    gone = [dropped] if finished.joined else [finished, dropped]  # what was joined in place is the blob
    for staging in gone:
        for action in (
            lambda one=staging: driver.parts(one),
            lambda one=staging: driver.put_part(one, 1, [data[:PART]]),
            lambda one=staging: driver.take_staging(one, one.joined or KEY),
        ):
            with pytest.raises(NotFoundError, match="start the upload again"):
                action()
    store.discard(blob)


def test_forgotten_uploads_are_collected_and_live_ones_are_not(store: BlobStore, left: Left) -> None:
    for size in (PART, 2 * PART):
        send_all(store, noise(size))
        store.begin_staging(size, PART, sha256_digest(b""))
    send(store, store.begin_staging(3 * PART, PART, sha256_digest(b"")), 2, noise(PART))
    before = left()
    assert store.clear_staging(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert left() == before
    # On a bucket an upload of one part, of which nothing came, leaves nothing to collect.
    uploads = {
        "/".join(name.partition(" ")[0].split("/")[: 2 if name.startswith("staging/") else None]) for name in before
    }
    assert store.clear_staging(datetime.now(UTC) + timedelta(hours=1)) == len(uploads) >= 4
    assert left() == []
    assert store.clear_staging(datetime.now(UTC)) == 0


def test_an_upload_to_which_something_came_lately_is_kept(store: BlobStore) -> None:
    staging = store.begin_staging(3 * PART, PART, sha256_digest(b""))
    time.sleep(0.05)  # clocks of file systems tick some times a second
    begun_before = datetime.now(UTC)
    time.sleep(0.05)
    send(store, staging, 1, noise(PART))
    assert store.clear_staging(begun_before) == 0
    assert store.parts(staging) == {1: PART}


def test_numbers_and_sizes_that_make_no_sense(driver: StagingDriver) -> None:
    staging = driver.begin_staging(2 * PART, PART, sha256_digest(b""))
    for number in (0, 3, -1):
        with pytest.raises(UsageError, match="no part"):
            driver.sign_part(staging, number, 60)
        with pytest.raises(UsageError, match="no part"):
            driver.put_part(staging, number, [b""])
    driver.drop_staging(staging)
    with pytest.raises(UsageError, match=f"use parts of at least {2}"):
        driver.begin_staging(MOST_PARTS + 1, 1, sha256_digest(b""))
    for size, part_size in ((-1, 1), (1, 0)):
        with pytest.raises(UsageError):
            driver.begin_staging(size, part_size, sha256_digest(b""))
    with pytest.raises(ValueError, match="not a staging"):
        Staging("staging/../../etc", None, 1, 1)


def test_what_is_taken_can_be_committed_by_itself(driver: StagingDriver, tmp_path: Path) -> None:
    data = noise(2 * PART)
    staging = send_all(driver, data)
    key = staging.joined or KEY
    with driver.take_staging(staging, key) as writer:
        reader = writer.open()
        found = bytearray(reader.size)
        reader.read_into(0, memoryview(found))
        reader.close()
        assert found == data
        driver.commit([Commit(writer, key)])
    assert driver.size(key) == len(data)
    driver.delete(key)
    driver.drop_staging(staging)


def test_only_buckets_sign(any_driver: StagingDriver) -> None:
    signs = any_driver.place.startswith("s3://")
    assert (any_driver.sign_get(KEY, 60, name=None) is not None) == signs
