"""Writing an artifact: what lies in the folder, its digests, and what a failure leaves open."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from blake3 import blake3

from registry.folders import writer
from registry.folders.writer import write_files
from registry.progress import SILENT

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

    def chunks(self) -> Iterator[memoryview]:
        for number in range(self.count):
            if number == self.fails_at:
                raise ValueError("damaged")
            self.asked.append(number)
            yield memoryview(bytes([number]) * CHUNK)

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
    monkeypatch.setattr(writer, "_BEHIND", 4 * CHUNK)

    def full(_fd: int, _data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    file = Made("a", 100)
    with pytest.raises(OSError, match="No space left"):
        write_files(Several((file,)), tmp_path, SILENT)
    assert len(file.asked) <= 6
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


def test_a_slow_disk_is_not_run_away_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_BEHIND", 4 * CHUNK)
    file, write = Made("a", 40), os.write
    ahead: list[int] = []

    def slow(fd: int, data: memoryview) -> int:
        ahead.append(len(file.asked) - len(ahead))
        return write(fd, data)

    monkeypatch.setattr(os, "write", slow)
    write_files(Several((file,)), tmp_path, SILENT)
    assert max(ahead) <= 6
    assert (tmp_path / "a").read_bytes() == file.data()
