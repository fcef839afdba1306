"""What the blob store promises on every driver: one copy, named by its bytes, nothing half-made."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.digest import BlobRef, hex_of, sha256_digest
from registry.errors import IntegrityError, NotFoundError
from registry.storage.blobs import BlobStore, StoredBlob
from registry.storage.driver import BLOBS, blocks_key, digest_of
from registry.storage.memory import MemoryDriver

BLOCK = 256 * 1024
Left = Callable[[], list[str]]

EDGES = [0, 1, 31, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 4 * BLOCK - 1, 4 * BLOCK, 4 * BLOCK + 1, 13 * BLOCK + 7]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def expected(data: bytes) -> tuple[str, int, str]:
    """Digest, size and digest of the block list, computed here and not by the store."""
    blocks = b"".join(blake3(data[start : start + BLOCK]).digest() for start in range(0, len(data), BLOCK))
    return f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), f"sha256:{hashlib.sha256(blocks).hexdigest()}"


def read_all(store: BlobStore, blob: StoredBlob) -> bytes:
    with store.open(blob) as reader:
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
        assert list(store.objects()) == []
        blob = staged.commit()
    assert blob == StoredBlob(*expected(data), key=blob.key, stored=size, stored_by="copy")
    assert blob.key.startswith("blobs/sha256/")
    assert digest_of(blob.key) == blob.digest
    assert bytes(seen) == data
    assert sum(steps) == size
    assert store.size(blob.key) == size
    assert read_all(store, blob) == data
    store.check(blob)
    lists = [(blocks_key(blob.key), 32 * -(-size // BLOCK))] if size > BLOCK else []
    assert [(one.key, one.size) for one in store.objects()] == [(blob.key, size), *lists]


def test_known_bytes_are_stored_once(store: BlobStore, left: Left, tmp_path: Path) -> None:
    data = noise(3 * BLOCK)
    file = tmp_path / "file"
    file.write_bytes(data)
    first = store.put_bytes(data)
    before = left()
    with store.stage(file) as staged:
        [second] = store.commit([staged], {first.digest: first})
    third = store.keep(file, first.digest, known=first)
    fourth = store.put_bytes(data, first)
    assert (first.stored, first.stored_by) == (len(data), "copy")
    known = StoredBlob(first.digest, first.size, first.blocks_digest, first.key, stored=0, stored_by="none")
    assert second == third == fourth == known
    assert left() == before


def test_bytes_that_the_catalogue_does_not_know_get_an_object_of_their_own(store: BlobStore, left: Left) -> None:
    """Whoever deletes one of them takes nothing from the other."""
    data = noise(3 * BLOCK)
    first, second = store.put_bytes(data), store.put_bytes(data)
    assert (second.digest, second.stored, second.stored_by) == (first.digest, len(data), "copy")
    assert first.key != second.key
    store.delete(first.key)
    assert read_all(store, second) == data
    store.delete(blocks_key(second.key))
    assert left() == []


def test_a_blob_that_lost_a_race_is_discarded_and_that_of_the_other_stays(store: BlobStore, left: Left) -> None:
    data = noise(2 * BLOCK)
    won, lost = store.put_bytes(data), store.put_bytes(data)
    before = left()
    store.discard(lost)
    assert left() == sorted({won.key, blocks_key(won.key)})
    store.discard(store.put_bytes(data, won))
    assert set(left()) < set(before)
    assert read_all(store, won) == data


def test_writers_of_one_digest_side_by_side(store: BlobStore) -> None:
    data = noise(5 * BLOCK)
    made: list[StoredBlob] = []
    threads = [threading.Thread(target=lambda: made.append(store.put_bytes(data))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({blob.key for blob in made}) == 6
    for blob in made[1:]:
        store.discard(blob)
    assert read_all(store, made[0]) == data
    assert [one.key for one in store.objects()] == [made[0].key, blocks_key(made[0].key)]


def test_blobs_of_earlier_versions_are_read_and_relied_on(root: Path, folder_store: BlobStore) -> None:
    data = noise(3 * BLOCK)
    blob = folder_store.put_bytes(data)
    name = hex_of(blob.digest)
    old = f"{BLOBS}{name[:2]}/{name}"
    for new_name, old_name in ((blob.key, old), (blocks_key(blob.key), blocks_key(old))):
        (root / new_name).rename(root / old_name)
    place = BlobRef(blob.digest, blob.size, blob.blocks_digest, old)
    folder_store.check(place)
    again = folder_store.put_bytes(data, place)
    assert (again.key, again.stored_by) == (old, "none")
    assert [digest_of(one.key) for one in folder_store.objects()] == [blob.digest] * 2
    folder_store.delete(old)
    assert list(folder_store.objects()) == []


def test_many_files_are_committed_together(store: BlobStore, tmp_path: Path) -> None:
    contents = [noise(size, size) for size in (10, BLOCK + 1, 10, 0, 5 * BLOCK)]
    known = store.put_bytes(contents[3])
    staged = []
    for number, data in enumerate(contents):
        file = tmp_path / f"file{number}"
        file.write_bytes(data)
        staged.append(store.stage(file))
    blobs = store.commit(staged, {known.digest: known})
    assert [(blob.digest, blob.size, blob.blocks_digest) for blob in blobs] == [expected(data) for data in contents]
    assert [blob.stored_by for blob in blobs] == ["copy", "copy", "none", "none", "copy"]
    assert blobs[3].key == known.key
    assert blobs[2].key == blobs[0].key
    for blob, data in zip(blobs, contents, strict=True):
        assert read_all(store, blob) == data


def test_a_staged_file_that_is_not_committed_leaves_nothing(store: BlobStore, left: Left, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(noise(2 * BLOCK))
    with store.stage(file):
        pass
    with pytest.raises(KeyError), store.stage(file):
        raise KeyError
    assert left() == []


@pytest.mark.parametrize("fails_at", [0, 4 * BLOCK, 8 * BLOCK])
def test_what_the_watcher_raises_leaves_nothing(store: BlobStore, left: Left, tmp_path: Path, fails_at: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(noise(9 * BLOCK))

    def watch(offset: int, chunk: memoryview) -> None:
        if offset <= fails_at < offset + len(chunk):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.stage(file, watch=watch)
    assert left() == []


def test_files_that_are_not_there_or_not_readable(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="none"):
        store.stage(tmp_path / "none")
    with pytest.raises(NotFoundError, match="is a folder, but a file is expected"):
        store.stage(tmp_path)
    with pytest.raises(NotFoundError, match="none"):
        store.keep(tmp_path / "none", sha256_digest(b"none"))


def test_a_file_that_changed_since_it_was_hashed_is_not_kept(store: BlobStore, left: Left, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(noise(2 * BLOCK, 1))
    with pytest.raises(IntegrityError, match="changed while it was being added") as caught:
        store.keep(file, sha256_digest(noise(2 * BLOCK, 2)))
    assert caught.value.code == "corrupt"
    assert str(file) in str(caught.value)
    assert left() == []
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
    with store.open(blob) as reader:
        assert reader.size == size
        for _ in range(data.draw(st.integers(1, 5))):
            start = data.draw(st.integers(0, size))
            stop = data.draw(st.integers(start, size))
            buffer = bytearray(stop - start)
            reader.read_into(start, memoryview(buffer))
            assert bytes(buffer) == content[start:stop]
