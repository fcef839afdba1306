"""What the blob store promises on every driver: one copy, named by its bytes, nothing half-made."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.digest import sha256_digest
from registry.errors import IntegrityError, NotFoundError, UnavailableError
from registry.storage.blobs import BlobStore, StoredBlob
from registry.storage.driver import ObjectDriver
from registry.storage.memory import MemoryDriver

BLOCK = 256 * 1024
EDGES = [0, 1, 31, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 4 * BLOCK - 1, 4 * BLOCK, 4 * BLOCK + 1, 13 * BLOCK + 7]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def expected(data: bytes) -> tuple[str, int, str]:
    """Digest, size and digest of the block list, computed here and not by the store."""
    blocks = b"".join(blake3(data[start : start + BLOCK]).digest() for start in range(0, len(data), BLOCK))
    return f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), f"sha256:{hashlib.sha256(blocks).hexdigest()}"


def read_all(store: BlobStore, blob: StoredBlob) -> bytes:
    with store.open(blob.digest, blob.size, blob.blocks_digest) as reader:
        data = bytearray(blob.size)
        reader.read_into(0, memoryview(data))
    return bytes(data)


@pytest.mark.parametrize("size", EDGES)
def test_a_staged_file_is_stored_under_its_digest(store: BlobStore, tmp_path: Path, size: int) -> None:
    data = noise(size)
    file = tmp_path / "file"
    file.write_bytes(data)
    seen = bytearray()
    steps: list[int] = []

    def watch(offset: int, chunk: memoryview) -> None:
        assert offset == len(seen)
        seen.extend(chunk)

    with store.stage(file, watch=watch, advance=steps.append) as staged:
        assert (staged.digest, staged.size, staged.blocks_digest) == expected(data)
        assert not store.has(staged.digest)
        blob = staged.commit()
    assert blob == StoredBlob(*expected(data), stored=size, stored_by="copy")
    assert bytes(seen) == data
    assert sum(steps) == size
    assert store.size(blob.digest) == size
    assert read_all(store, blob) == data
    store.check(blob.digest, blob.size, blob.blocks_digest)


def test_the_same_bytes_are_stored_once(store: BlobStore, any_driver: ObjectDriver, tmp_path: Path) -> None:
    data = noise(3 * BLOCK)
    file = tmp_path / "file"
    file.write_bytes(data)
    first = store.put_bytes(data)
    before = list(any_driver.keys(""))
    with store.stage(file) as staged:
        second = staged.commit()
    third = store.keep(file, first.digest)
    assert (first.stored, first.stored_by) == (len(data), "copy")
    assert second == third == StoredBlob(first.digest, first.size, first.blocks_digest, stored=0, stored_by="none")
    assert list(any_driver.keys("")) == before


def test_many_files_are_committed_together(store: BlobStore, tmp_path: Path) -> None:
    contents = [noise(size, size) for size in (10, BLOCK + 1, 10, 0, 5 * BLOCK)]
    known = store.put_bytes(contents[3])
    staged = []
    for number, data in enumerate(contents):
        file = tmp_path / f"file{number}"
        file.write_bytes(data)
        staged.append(store.stage(file))
    blobs = store.commit(staged)
    assert [(blob.digest, blob.size, blob.blocks_digest) for blob in blobs] == [expected(data) for data in contents]
    assert [blob.stored_by for blob in blobs] == ["copy", "copy", "none", "none", "copy"]
    assert blobs[3].digest == known.digest
    for blob, data in zip(blobs, contents, strict=True):
        assert read_all(store, blob) == data


def test_a_staged_file_that_is_not_committed_leaves_nothing(
    store: BlobStore, any_driver: ObjectDriver, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(noise(2 * BLOCK))
    with store.stage(file):
        pass
    with pytest.raises(KeyError), store.stage(file):
        raise KeyError
    assert list(any_driver.keys("")) == []


@pytest.mark.parametrize("fails_at", [0, 4 * BLOCK, 8 * BLOCK])
def test_what_the_watcher_raises_leaves_nothing(
    store: BlobStore, any_driver: ObjectDriver, tmp_path: Path, fails_at: int
) -> None:
    file = tmp_path / "file"
    file.write_bytes(noise(9 * BLOCK))

    def watch(offset: int, chunk: memoryview) -> None:
        if offset <= fails_at < offset + len(chunk):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.stage(file, watch=watch)
    assert list(any_driver.keys("")) == []


def test_files_that_are_not_there_or_not_readable(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="none"):
        store.stage(tmp_path / "none")
    with pytest.raises(UnavailableError, match="can't be read"):
        store.stage(tmp_path)
    with pytest.raises(NotFoundError, match="none"):
        store.keep(tmp_path / "none", sha256_digest(b"none"))


def test_a_file_that_changed_since_it_was_hashed_is_not_kept(
    store: BlobStore, any_driver: ObjectDriver, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(noise(2 * BLOCK, 1))
    with pytest.raises(IntegrityError, match="changed while it was being added") as caught:
        store.keep(file, sha256_digest(noise(2 * BLOCK, 2)))
    assert caught.value.code == "corrupt"
    assert str(file) in str(caught.value)
    assert list(any_driver.keys("")) == []
    assert file.read_bytes() == noise(2 * BLOCK, 1)


def test_keep_stores_a_file_of_known_digest(store: BlobStore, tmp_path: Path) -> None:
    data = noise(3 * BLOCK + 5)
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    steps: list[int] = []
    blob = store.keep(file, sha256_digest(data), advance=steps.append)
    assert (blob.digest, blob.size, blob.blocks_digest) == expected(data)
    assert (blob.stored_by, blob.stored) in {("copy", len(data)), ("reflink", 0)}
    assert sum(steps) == len(data)
    assert read_all(store, blob) == data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), size=st.one_of(st.sampled_from(EDGES), st.integers(0, 6 * BLOCK)))
def test_any_range_reads_what_was_stored(data: st.DataObject, size: int) -> None:
    store = BlobStore(MemoryDriver())
    content = noise(size)
    blob = store.put_bytes(content)
    with store.open(blob.digest, blob.size, blob.blocks_digest) as reader:
        assert reader.size == size
        for _ in range(data.draw(st.integers(1, 5))):
            start = data.draw(st.integers(0, size))
            stop = data.draw(st.integers(start, size))
            buffer = bytearray(stop - start)
            reader.read_into(start, memoryview(buffer))
            assert bytes(buffer) == content[start:stop]
