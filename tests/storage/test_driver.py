"""The conformance suite of object drivers: every driver of `conftest.KINDS` does all of this."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.errors import IntegrityError, NotFoundError, UsageError
from registry.storage.driver import Commit, ObjectDriver

KEY = "blobs/sha256/ab/abcd"


def put(driver: ObjectDriver, key: str, data: bytes) -> None:
    with driver.writer() as writer:
        writer.write(data)
        driver.commit([Commit(writer, key)])


def keys(driver: ObjectDriver, prefix: str = "") -> list[str]:
    return [one.key for one in driver.objects(prefix)]


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
        put(driver, KEY, data)
        assert get(driver, KEY) == data
        assert driver.size(KEY) == len(data)
        assert keys(driver) == [KEY]


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
        assert keys(driver) == []
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


def test_an_object_is_never_overwritten(driver: ObjectDriver) -> None:
    with removed(driver, KEY):
        put(driver, KEY, b"first")
        with pytest.raises(IntegrityError, match=f"object {KEY} in .* already.*run this again") as caught:
            put(driver, KEY, b"second")
        assert driver.place in str(caught.value)
        assert get(driver, KEY) == b"first"


def test_a_taken_key_among_many_harms_no_other(driver: ObjectDriver) -> None:
    names = [f"blobs/sha256/{n:02x}/{n:04x}" for n in range(6)]
    with removed(driver, *names):
        put(driver, names[3], b"there")
        writers = [driver.writer() for _ in names]
        for number, writer in enumerate(writers):
            writer.write(f"object {number}".encode())
        with pytest.raises(IntegrityError, match=names[3]):
            driver.commit([Commit(writer, key) for writer, key in zip(writers, names, strict=True)])
        for writer in writers:
            writer.__exit__(None, None, None)
        assert get(driver, names[3]) == b"there"
        for key in set(keys(driver)) - {names[3]}:
            assert get(driver, key) == f"object {names.index(key)}".encode()


def test_many_objects_are_committed_together(driver: ObjectDriver) -> None:
    names = [f"blobs/sha256/{n:02x}/{n:04x}" for n in range(20)]
    with removed(driver, *names):
        writers = [driver.writer() for _ in names]
        for number, writer in enumerate(writers):
            writer.write(f"object {number}".encode())
        driver.commit([Commit(writer, key) for writer, key in zip(writers, names, strict=True)])
        for writer in writers:
            writer.__exit__(None, None, None)
        assert [get(driver, key) for key in names] == [f"object {number}".encode() for number in range(20)]


def test_committing_nothing_is_allowed(driver: ObjectDriver) -> None:
    driver.commit([])


def test_a_store_that_can_be_used_answers_a_ping(driver: ObjectDriver) -> None:
    driver.ping()


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
        put(driver, KEY, b"two")
        assert get(driver, KEY) == b"two"


def test_objects_are_sorted_and_filtered_by_any_prefix(driver: ObjectDriver) -> None:
    names = sorted(["a/b/c", "a/b-c/d", "a/b.d", "a/bc/e", "b/a", "blobs/sha256/ab/abcd", "blocks/sha256/ab/abcd"])
    with removed(driver, *names):
        for number, key in enumerate(names):
            put(driver, key, b"x" * number)
        assert [(one.key, one.size) for one in driver.objects("")] == [(key, n) for n, key in enumerate(names)]
        for prefix in ("a", "a/", "a/b", "a/b/", "b", "bl", "blobs/sha256/ab/ab", "blobs/sha256/ac", "z"):
            assert keys(driver, prefix) == [key for key in names if key.startswith(prefix)]


def test_objects_say_when_they_came(driver: ObjectDriver) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)  # stores may round to seconds
    with removed(driver, KEY):
        put(driver, KEY, b"data")
        [one] = driver.objects("")
        assert one.modified.tzinfo is UTC
        assert before <= one.modified <= datetime.now(UTC) + timedelta(seconds=1)


def test_illegal_keys_are_refused(driver: ObjectDriver) -> None:
    illegal = ["", "one", "/a/b", "a//b", "a/b/", "../a", "a/../b", "a/.hidden", "a/b\n", "a/b c"]
    for key in [*illegal, "tmp/a", "staging/a", "incoming/a"]:
        with pytest.raises(ValueError, match="not an object key"):
            driver.open(key)
        with pytest.raises(ValueError, match="not an object key"):
            put(driver, key, b"data")


def test_reading_past_the_end_is_an_integrity_error(driver: ObjectDriver) -> None:
    with removed(driver, KEY):
        put(driver, KEY, b"0123456789")
        reader = driver.open(KEY)
        for offset, length in [(0, 11), (5, 6), (10, 1), (11, 1), (4000, 1)]:
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


def test_many_threads_make_objects_of_their_own(driver: ObjectDriver) -> None:
    names = [f"{KEY}-{number}" for number in range(8)]
    threads = [threading.Thread(target=put, args=(driver, key, key.encode())) for key in names]
    with removed(driver, *names):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [get(driver, key) for key in names] == [key.encode() for key in names]


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
                    driver.commit([Commit(writer, KEY)])
                assert get(driver, KEY) == b"weights"
                driver.delete(KEY)
    assert file.read_bytes() == b"weights"
