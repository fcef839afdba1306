"""Writing an artifact: what lies in the folder, its digests, and what a failure leaves open."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from blake3 import blake3

from registry.files.hashed import Each
from registry.folders.writer import write_files
from registry.progress import SILENT
from registry.tensors.artifacts.artifact import ArtifactFile, Region

CHUNK = 1 << 20


@dataclass
class Made:
    """A file of repeated numbers, which counts how much of it was asked for."""

    path: str
    count: int
    asked: list[int] = field(default_factory=list)
    fails_at: int = -1

    @property
    def size(self) -> int:
        return self.count * CHUNK

    def chunks(self, *, each: Each) -> Iterator[memoryview]:
        """In order, and given in pairs with the later one first."""
        for number in range(self.count):
            if number == self.fails_at:
                raise ValueError("damaged")
            self.asked.append(number)
            if number % 2 == 0:
                for one in (number + 1, number):
                    if one < self.count:
                        each(one * CHUNK, self._chunk(one))
            yield self._chunk(number)

    @staticmethod
    def _chunk(number: int) -> memoryview:
        return memoryview(bytes([number]) * CHUNK)

    def data(self) -> bytes:
        return b"".join(bytes([number]) * CHUNK for number in range(self.count))


@dataclass
class Several:
    """Files by name."""

    made: tuple[Made, ...]

    @property
    def files(self) -> dict[str, Made]:
        return {file.path: file for file in self.made}

    @property
    def size(self) -> int:
        return sum(file.size for file in self.made)


@pytest.fixture
def opened() -> Callable[[], int]:
    """How many descriptors there are more than before."""
    process = psutil.Process()
    before = process.num_fds()
    return lambda: process.num_fds() - before


def test_what_is_written_is_what_was_made_and_hashed(tmp_path: Path, opened: Callable[[], int]) -> None:
    files = Several((Made("a", 3), Made("deep/b", 70), Made("empty", 0)))
    found = write_files(files, tmp_path, SILENT)
    for file, out in zip(files.made, found, strict=True):
        assert (tmp_path / file.path).read_bytes() == file.data()
        assert (out.path, out.size, out.blake3) == (file.path, file.size, blake3(file.data()).hexdigest())
    assert opened() == 0


def test_a_file_that_is_there_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_files(Several((Made("a", 1),)), tmp_path, SILENT)
    assert (tmp_path / "a").read_bytes() == b"mine"


@pytest.mark.parametrize("when", [0, 5])
def test_damage_while_bytes_are_made_is_raised(tmp_path: Path, opened: Callable[[], int], when: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        write_files(Several((Made("a", 2), Made("b", 9, fails_at=when))), tmp_path, SILENT)
    assert opened() == 0


def test_a_full_disk_stops_the_making(
    tmp_path: Path, opened: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int, _data: memoryview, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    file = Made("a", 100)
    with pytest.raises(OSError, match="No space left"):
        write_files(Several((file,)), tmp_path, SILENT)
    assert len(file.asked) == 1
    assert opened() == 0


def test_bytes_that_may_not_be_on_the_medium_are_an_error(
    tmp_path: Path, opened: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write_files(Several((Made("a", 1), Made("b", 1))), tmp_path, SILENT)
    assert opened() == 0


@pytest.mark.parametrize("which", [0, 1, 2])
def test_each_of_several_files_has_to_be_on_the_medium(
    tmp_path: Path, opened: Callable[[], int], monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    sync, calls = os.fsync, itertools.count()

    def broken_once(fd: int) -> None:
        if next(calls) == which:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)

    monkeypatch.setattr(os, "fsync", broken_once)
    with pytest.raises(OSError, match="Input/output error"):
        write_files(Several((Made("a", 1), Made("b", 1), Made("c", 1))), tmp_path, SILENT)
    assert next(calls) == 3
    assert opened() == 0


def test_writes_of_some_bytes_only_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: write(fd, data[: CHUNK // 3], offset))
    file = Made("a", 3)
    write_files(Several((file,)), tmp_path, SILENT)
    assert (tmp_path / "a").read_bytes() == file.data()


def test_what_comes_after_a_failure_is_not_written_anywhere(tmp_path: Path) -> None:
    """A thread may still make a chunk while the file is closed, and its descriptor be another file's."""

    class Late(Made):
        def chunks(self, *, each: Each) -> Iterator[memoryview]:
            self.each = each
            return super().chunks(each=each)

    file = Late("a", 2, fails_at=0)
    with pytest.raises(ValueError, match="damaged"):
        write_files(Several((file,)), tmp_path, SILENT)
    with (tmp_path / "other").open("x+b") as other:
        file.each(0, memoryview(b"late"))
        assert other.read() == b""
    assert (tmp_path / "a").read_bytes() == b""


def test_threads_write_one_file(tmp_path: Path) -> None:
    """Computed files give their chunks on the lanes that made them."""
    data = os.urandom(40 * CHUNK + 5)
    region = Region(0, len(data), CHUNK, lambda index: data[index * CHUNK : (index + 1) * CHUNK])
    file = ArtifactFile("a", [region])
    threads: set[str] = set()

    class Watched:
        path, size = file.path, file.size

        def chunks(self, *, each: Each) -> Iterator[memoryview]:
            def watched(offset: int, chunk: memoryview) -> None:
                threads.add(threading.current_thread().name)
                each(offset, chunk)

            return file.chunks(each=watched)

    class One:
        files, size = {"a": Watched()}, file.size

    found = write_files(One(), tmp_path, SILENT)
    assert (tmp_path / "a").read_bytes() == data
    assert found[0].blake3 == blake3(data).hexdigest()
    assert all(name.startswith("lane") for name in threads)
