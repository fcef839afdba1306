"""Damaged blobs: found by every read that touches the damage, never handed out, and mended by storing them again."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import IntegrityError
from registry.storage.blobs import BlobStore, StoredBlob
from registry.storage.driver import Commit, ObjectDriver, blocks_key
from registry.storage.memory import MemoryDriver

BLOCK = 256 * 1024
SIZES = [1, 1000, BLOCK, BLOCK + 1, 5 * BLOCK + 17]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def stored_bytes(driver: ObjectDriver, key: str) -> bytes:
    reader = driver.open(key)
    data = bytearray(reader.size)
    reader.read_into(0, memoryview(data))
    reader.close()
    return bytes(data)


def overwrite(driver: ObjectDriver, key: str, data: bytes) -> None:
    """Put other bytes under a key, as a failing disk would."""
    driver.delete(key)
    with driver.writer() as writer:
        writer.write(data)
        driver.commit([Commit(writer, key)])


def flip(driver: ObjectDriver, key: str, at: int, bit: int = 0) -> None:
    data = bytearray(stored_bytes(driver, key))
    data[at] ^= 1 << bit
    overwrite(driver, key, bytes(data))


def read(store: BlobStore, blob: StoredBlob, start: int, stop: int) -> bytes:
    buffer = bytearray(stop - start)
    with store.open(blob) as reader:
        try:
            reader.read_into(start, memoryview(buffer))
        except IntegrityError:
            assert not any(buffer), "bytes that were not verified were handed out"
            raise
    return bytes(buffer)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.sampled_from(SIZES))
def test_a_flipped_bit_is_found_exactly_by_the_reads_of_its_block(data: st.DataObject, size: int) -> None:
    driver = MemoryDriver()
    store = BlobStore(driver)
    content = noise(size)
    blob = store.put_bytes(content)
    at = data.draw(st.integers(0, size - 1))
    flip(driver, blob.key, at, data.draw(st.integers(0, 7)))
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    if start // BLOCK <= at // BLOCK <= (stop - 1) // BLOCK:
        with pytest.raises(IntegrityError) as caught:
            read(store, blob, start, stop)
        first = at // BLOCK * BLOCK
        assert caught.value.code == "corrupt"
        assert blob.digest in str(caught.value)
        assert f"bytes {first} to {min(first + BLOCK, size)} " in str(caught.value)
        assert "publish" in str(caught.value)
    else:
        assert read(store, blob, start, stop) == content[start:stop]
    with pytest.raises(IntegrityError):
        store.check(blob)


@settings(max_examples=30, deadline=None)
@given(at=st.integers(0, 6 * 32 - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_block_list_is_found(at: int, bit: int) -> None:
    driver = MemoryDriver()
    store = BlobStore(driver)
    blob = store.put_bytes(noise(5 * BLOCK + 17))
    flip(driver, blocks_key(blob.key), at, bit)
    with pytest.raises(IntegrityError, match="block digests"):
        read(store, blob, 0, 1)
    with pytest.raises(IntegrityError, match="block digests"):
        store.check(blob)


def test_a_list_that_fits_damaged_bytes_is_not_believed(store: BlobStore, any_driver: ObjectDriver) -> None:
    good, bad = noise(3 * BLOCK), bytes(3 * BLOCK)
    blob, other = store.put_bytes(good), store.put_bytes(bad)
    overwrite(any_driver, blob.key, bad)
    overwrite(any_driver, blocks_key(blob.key), stored_bytes(any_driver, blocks_key(other.key)))
    with pytest.raises(IntegrityError, match="not the one that was stored"):
        read(store, blob, 0, BLOCK)


@pytest.mark.parametrize("size", [1, BLOCK, 5 * BLOCK + 17])
def test_a_blob_of_another_size_is_not_opened(store: BlobStore, any_driver: ObjectDriver, size: int) -> None:
    blob = store.put_bytes(noise(size))
    for data in (noise(size)[:-1], noise(size) + b"x"):
        overwrite(any_driver, blob.key, data)
        for action in (lambda: read(store, blob, 0, 1), lambda: store.check(blob)):
            with pytest.raises(IntegrityError, match=f"{len(data)} bytes instead of {size}"):
                action()


@pytest.mark.parametrize("size", [100, 2 * BLOCK])
def test_a_missing_blob_is_named(store: BlobStore, any_driver: ObjectDriver, size: int) -> None:
    blob = store.put_bytes(noise(size))
    any_driver.delete(blob.key)
    for action in (lambda: read(store, blob, 0, 1), lambda: store.check(blob)):
        with pytest.raises(IntegrityError, match=f"{blob.digest}.*missing"):
            action()


def test_a_missing_block_list_is_named(store: BlobStore, any_driver: ObjectDriver) -> None:
    blob = store.put_bytes(noise(2 * BLOCK))
    any_driver.delete(blocks_key(blob.key))
    with pytest.raises(IntegrityError, match="list of its block digests is missing"):
        read(store, blob, 0, 1)


def test_a_file_cut_while_it_is_open_is_found(folder_store: BlobStore, root: Path) -> None:
    blob = folder_store.put_bytes(noise(3 * BLOCK))
    path = root / blob.key
    with folder_store.open(blob) as reader:
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.truncate(2 * BLOCK + 5)
        reader.read_into(0, memoryview(bytearray(2 * BLOCK)))
        with pytest.raises(IntegrityError, match="ends before byte"):
            reader.read_into(0, memoryview(bytearray(3 * BLOCK)))


@pytest.mark.slow_on("s3")
@pytest.mark.parametrize("damage", ["flip", "cut", "list flipped", "list gone", "blob gone"])
@pytest.mark.parametrize("way", ["stage", "keep", "put_bytes"])
def test_storing_the_bytes_again_mends_the_blob(
    store: BlobStore, any_driver: ObjectDriver, tmp_path: Path, damage: str, way: str
) -> None:
    for size in SIZES:
        if size > BLOCK or not damage.startswith("list"):
            mend(store, any_driver, tmp_path / "file", size, damage, way)


def mend(store: BlobStore, driver: ObjectDriver, file: Path, size: int, damage: str, way: str) -> None:
    content = noise(size)
    file.write_bytes(content)
    blob = store.put_bytes(content)
    key, list_key = blob.key, blocks_key(blob.key)
    if damage == "flip":
        flip(driver, key, size - 1)
    elif damage == "cut":
        overwrite(driver, key, content[:-1])
    elif damage == "list flipped":
        flip(driver, list_key, 40)
    else:
        driver.delete(list_key if damage == "list gone" else key)
    damaged = {one.key: one.size for one in store.objects()}
    if way == "stage":
        with store.stage(file) as staged:
            [again] = store.commit([staged], {blob.digest: blob})
    elif way == "keep":
        again = store.keep(file, blob.digest, known=blob)
    else:
        again = store.put_bytes(content, blob)
    assert (again.digest, again.size, again.blocks_digest) == (blob.digest, blob.size, blob.blocks_digest)
    assert again.stored_by in {"copy", "reflink"}
    assert again.key != blob.key
    assert read(store, again, 0, size) == content
    store.check(again)
    left = {one.key: one.size for one in store.objects() if one.key not in {again.key, blocks_key(again.key)}}
    assert left == damaged, "what was damaged is not touched: someone may be reading it, and it goes with its row"


def test_a_row_that_says_other_than_the_bytes_is_not_believed(store: BlobStore) -> None:
    blob = store.put_bytes(noise(2 * BLOCK))
    wrong = replace(blob, blocks_digest=store.put_bytes(noise(3 * BLOCK)).blocks_digest)
    with pytest.raises(IntegrityError, match="digest of its blocks is"):
        store.check(wrong)
    again = store.put_bytes(noise(2 * BLOCK), wrong)
    assert (again.stored_by, again.blocks_digest) == ("copy", blob.blocks_digest)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, BLOCK + 2), (BLOCK + 2, 1)])
def test_ranges_outside_the_blob_are_refused(store: BlobStore, offset: int, length: int) -> None:
    blob = store.put_bytes(noise(BLOCK + 1))
    with (
        store.open(blob) as reader,
        pytest.raises(IntegrityError, match="were requested"),
    ):
        reader.read_into(offset, memoryview(bytearray(length)))


def test_one_reader_serves_many_threads(store: BlobStore) -> None:
    content = noise(9 * BLOCK + 3)
    blob = store.put_bytes(content)
    wrong: list[int] = []
    with store.open(blob) as reader:

        def read_pieces(first: int) -> None:
            for offset in range(first, len(content) - 70_001, 140_002):
                buffer = bytearray(70_001)
                reader.read_into(offset, memoryview(buffer))
                if buffer != content[offset : offset + 70_001]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read_pieces, args=(first,)) for first in (0, 70_001, 5, BLOCK)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
