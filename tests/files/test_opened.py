"""Files and locks are the same on POSIX and where there is nothing of it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.files import opened
from registry.files.opened import lock_folder, open_new, open_to_read, read_at, write_at
from tests.kit.windows import Msvcrt


@pytest.fixture(autouse=True, params=["posix", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "windows":
        monkeypatch.setattr(opened, "_IS_POSIX", False)
        monkeypatch.setattr(opened, "_HAS_PLACES", False)
        monkeypatch.setattr(opened, "_msvcrt", Msvcrt("msvcrt"), raising=False)
    return str(request.param)


def is_free(folder: Path, *, shared: bool) -> bool:
    try:
        lock_folder(folder, shared=shared, wait=False).close()
    except BlockingIOError:
        return False
    return True


def test_who_shares_a_lock_keeps_out_who_wants_it_alone(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(FileNotFoundError):
        lock_folder(folder)
    folder.mkdir()
    readers = [lock_folder(folder, shared=True, wait=False) for _ in range(3)]
    for one in readers:
        assert (is_free(folder, shared=True), is_free(folder, shared=False)) == (True, False)
        one.close()
    assert is_free(folder, shared=False)
    alone = lock_folder(folder)
    assert not is_free(folder, shared=True)
    assert not is_free(folder, shared=False)
    alone.close()
    assert is_free(folder, shared=True)


def test_who_waits_gets_it_when_it_is_free(tmp_path: Path) -> None:
    held, begun = lock_folder(tmp_path), threading.Event()

    def wait() -> str:
        begun.set()
        lock_folder(tmp_path).close()
        return "has it"

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        begun.wait()
        assert not waiting.done()
        held.close()
        assert waiting.result() == "has it"


def test_a_lock_is_of_the_folder_that_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = lock_folder(folder, shared=True)
    assert lock.is_of(folder)
    folder.rename(tmp_path / "other")
    assert not lock.is_of(folder)
    folder.mkdir()
    assert not lock.is_of(folder)
    lock.close()


def test_nothing_is_left_of_a_lock_whose_folder_is_gone(tmp_path: Path, system: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = lock_folder(folder)
    beside = [".folder.lock"] if system == "windows" else []
    assert sorted(os.listdir(tmp_path)) == [*beside, "folder"]  # noqa: PTH208
    folder.rmdir()
    lock.close()
    assert list(tmp_path.iterdir()) == []


def test_places_are_read_and_written_by_many_at_once(tmp_path: Path) -> None:
    size, count = 1000, 64
    pieces = [bytes([number]) * size for number in range(count)]
    file = tmp_path / "file"
    descriptor = open_new(file)
    with pytest.raises(FileExistsError):
        open_new(file)
    with ThreadPoolExecutor(8) as pool:
        numbers = range(count)[::-1]  # the last place first, so that none is where the one before ended
        written = pool.map(lambda number: write_at(descriptor, memoryview(pieces[number]), number * size), numbers)
        assert list(written) == [size] * count
    os.close(descriptor)
    assert file.read_bytes() == b"".join(pieces)
    descriptor = open_to_read(file)

    def read(number: int) -> bytes:
        buffer = bytearray(size)
        assert read_at(descriptor, memoryview(buffer), number * size) == size
        return bytes(buffer)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, numbers)) == pieces[::-1]
    assert read_at(descriptor, memoryview(bytearray(9)), size * count) == 0
    os.close(descriptor)
