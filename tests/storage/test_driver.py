"""The conformance suite of object drivers: every driver of `conftest.DRIVERS` does all of this."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from registry.errors import IntegrityError, NotFoundError, UsageError
from registry.storage.driver import Commit, ObjectDriver

KEY = "blobs/sha256/ab/abcd"


def put(driver: ObjectDriver, key: str, data: bytes, *, replace: bool = False) -> bool:
    with driver.writer() as writer:
        writer.write(data)
        return driver.commit([Commit(writer, key, replace)])[0]


def get(driver: ObjectDriver, key: str) -> bytes:
    reader = driver.open(key)
    try:
        data = bytearray(reader.size)
        reader.read_into(0, memoryview(data))
        return bytes(data)
    finally:
        reader.close()


@contextmanager
def removed(driver: ObjectDriver, *keys: str) -> Iterator[None]:
    try:
        yield
    finally:
        for key in keys:
            driver.delete(key)


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 5000])
def test_what_was_written_is_read(driver: ObjectDriver, data: bytes) -> None:
    with removed(driver, KEY):
        assert put(driver, KEY, data)
        assert get(driver, KEY) == data
        assert driver.size(KEY) == len(data)
        assert list(driver.keys("")) == [KEY]


def test_several_writes_append(driver: ObjectDriver) -> None:
    with removed(driver, KEY):
        with driver.writer() as writer:
            for piece in (b"one", bytearray(b"two"), memoryview(b"three"), b""):
                writer.write(piece)
            driver.commit([Commit(writer, KEY)])
        assert get(driver, KEY) == b"onetwothree"


def test_nothing_is_visible_before_the_commit(driver: ObjectDriver) -> None:
    with removed(driver, KEY), driver.writer() as writer:
        writer.write(b"data")
        assert driver.size(KEY) is None
        assert list(driver.keys("")) == []
        driver.commit([Commit(writer, KEY)])
        assert driver.size(KEY) == 4


def test_leaving_without_a_commit_leaves_nothing(driver: ObjectDriver) -> None:
    with driver.writer() as writer:
        writer.write(b"data")

    def fail() -> None:
        with driver.writer() as writer:
            writer.write(b"data")
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def test_an_uncommitted_object_can_be_read_back(driver: ObjectDriver) -> None:
    with driver.writer() as writer:
        assert writer.stored_by == "copy"
        writer.write(b"abcdef")
        reader = writer.open()
        buffer = bytearray(3)
        reader.read_into(2, memoryview(buffer))
        reader.close()
        assert (reader.size, bytes(buffer)) == (6, b"cde")


def test_an_object_is_kept_and_not_changed(driver: ObjectDriver) -> None:
    with removed(driver, KEY):
        assert put(driver, KEY, b"first")
        assert not put(driver, KEY, b"second")
        assert get(driver, KEY) == b"first"


def test_replace_puts_a_new_object_there_and_open_readers_keep_theirs(driver: ObjectDriver) -> None:
    with removed(driver, KEY):
        put(driver, KEY, b"damaged")
        reader = driver.open(KEY)
        assert put(driver, KEY, b"right", replace=True)
        assert get(driver, KEY) == b"right"
        old = bytearray(7)
        reader.read_into(0, memoryview(old))
        reader.close()
        assert old == b"damaged"


def test_replace_of_a_missing_object_makes_it(driver: ObjectDriver) -> None:
    with removed(driver, KEY):
        assert put(driver, KEY, b"right", replace=True)
        assert get(driver, KEY) == b"right"


def test_many_objects_are_committed_together(driver: ObjectDriver) -> None:
    keys = [f"blobs/sha256/{n:02x}/{n:04x}" for n in range(20)]
    with removed(driver, *keys):
        put(driver, keys[3], b"there")
        writers = [driver.writer() for _ in keys]
        for number, writer in enumerate(writers):
            writer.write(f"object {number}".encode())
        made = driver.commit([Commit(writer, key) for writer, key in zip(writers, keys, strict=True)])
        for writer in writers:
            writer.__exit__(None, None, None)
        assert made == [number != 3 for number in range(20)]
        assert [get(driver, key) for key in keys] == [
            b"there" if number == 3 else f"object {number}".encode() for number in range(20)
        ]
        driver.settle(keys)


def test_committing_nothing_is_allowed(driver: ObjectDriver) -> None:
    assert driver.commit([]) == []
    driver.settle([])


def test_missing_objects(driver: ObjectDriver) -> None:
    for key in (KEY, "blobs/sha256", "blobs/sha256/ab/abcd/more"):
        assert driver.size(key) is None
        with pytest.raises(NotFoundError):
            driver.open(key)
        driver.delete("blobs/none")


def test_a_prefix_of_keys_is_no_object(driver: ObjectDriver) -> None:
    with removed(driver, KEY):
        put(driver, KEY, b"data")
        assert driver.size("blobs/sha256/ab") is None
        for key in ("blobs/sha256/ab", f"{KEY}/more"):
            with pytest.raises(NotFoundError):
                driver.open(key)


def test_deleted_objects_are_gone_and_can_be_made_again(driver: ObjectDriver) -> None:
    with removed(driver, KEY):
        put(driver, KEY, b"one")
        driver.delete(KEY)
        assert driver.size(KEY) is None
        assert put(driver, KEY, b"two")
        assert get(driver, KEY) == b"two"


def test_keys_are_sorted_and_filtered_by_any_prefix(driver: ObjectDriver) -> None:
    keys = sorted(["a/b/c", "a/b-c/d", "a/b.d", "a/bc/e", "b/a", "blobs/sha256/ab/abcd", "blocks/sha256/ab/abcd"])
    with removed(driver, *keys):
        for key in keys:
            put(driver, key, b"")
        for prefix in ("", "a", "a/", "a/b", "a/b/", "b", "bl", "blobs/sha256/ab/ab", "blobs/sha256/ac", "z"):
            assert list(driver.keys(prefix)) == [key for key in keys if key.startswith(prefix)]


@pytest.mark.parametrize(
    "key", ["", "one", "/a/b", "a//b", "a/b/", "../a", "a/../b", "a/.hidden", "a/b\n", "tmp/a", "a/b c"]
)
def test_illegal_keys_are_refused(driver: ObjectDriver, key: str) -> None:
    with pytest.raises(ValueError, match="not an object key"):
        driver.open(key)
    with pytest.raises(ValueError, match="not an object key"):
        put(driver, key, b"data")


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (5, 6), (10, 1), (11, 1), (4000, 1)])
def test_reading_past_the_end_is_an_integrity_error(driver: ObjectDriver, offset: int, length: int) -> None:
    with removed(driver, KEY):
        put(driver, KEY, b"0123456789")
        reader = driver.open(KEY)
        with pytest.raises(IntegrityError):
            reader.read_into(offset, memoryview(bytearray(length)))
        reader.read_into(10, memoryview(bytearray(0)))
        reader.close()
        reader.close()


def test_readers_serve_many_threads(driver: ObjectDriver) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(50_000))
    with removed(driver, KEY):
        put(driver, KEY, data)
        reader = driver.open(KEY)
        wrong: list[int] = []

        def read(first: int) -> None:
            for offset in range(first, len(data) - 999, 7_919):
                buffer = bytearray(999)
                reader.read_into(offset, memoryview(buffer))
                if buffer != data[offset : offset + 999]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(first,)) for first in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reader.close()
        assert wrong == []


def test_only_one_of_many_threads_makes_an_object(driver: ObjectDriver) -> None:
    made: list[bool] = []
    threads = [threading.Thread(target=lambda: made.append(put(driver, KEY, b"same"))) for _ in range(8)]
    with removed(driver, KEY):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(made) == [False] * 7 + [True]
        assert get(driver, KEY) == b"same"


def test_files_are_taken_or_refused(driver: ObjectDriver, tmp_path: Path) -> None:
    """A driver may not be able to take files; it then says so and leaves nothing."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    with removed(driver, KEY):
        for link in (False, True):
            with suppress(UsageError):
                writer = driver.take_file(file, link=link)
                assert writer is not None or not link, "a file that can't be linked is a usage error"
                if writer is None:
                    continue
                with writer:
                    assert writer.stored_by == ("link" if link else "reflink")
                    assert driver.size(KEY) is None
                    assert driver.commit([Commit(writer, KEY)]) == [True]
                assert get(driver, KEY) == b"weights"
                driver.delete(KEY)
    assert file.read_bytes() == b"weights"
