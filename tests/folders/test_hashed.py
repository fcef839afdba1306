"""Files that were hashed: what shows later that they have other bytes, and that they have the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.digest import sha256_digest
from registry.files.hashed import HashedFile, Stamp, hash_file
from registry.progress import SILENT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "weights"
    file.write_bytes(b"right")
    return file


def is_still(hashed: HashedFile, opened: Path) -> bool:
    with opened.open("rb") as stream:
        return hashed.is_still(stream.fileno())


def test_who_was_left_alone_is_believed(file: Path) -> None:
    hashed = hash_file(file, SILENT)
    assert (hashed.digest, hashed.stamp) == (sha256_digest(b"right"), Stamp.of(file.stat()))
    assert is_still(hashed, file)
    assert is_still(replace(hashed, settled=True, digest="sha256:0"), file)  # without another pass over it


def test_a_file_that_was_just_written_is_hashed_again(file: Path) -> None:
    hashed = hash_file(file, SILENT)
    assert not hashed.settled
    file.write_bytes(b"other")
    within_one_tick = replace(hashed, stamp=Stamp.of(file.stat()))
    with file.open("rb") as stream:
        assert within_one_tick.passes(stream.fileno())
    assert not is_still(within_one_tick, file)


@pytest.mark.parametrize("settled", [False, True])
def test_other_bytes_of_the_same_size_are_seen(file: Path, settled: bool) -> None:
    hashed = replace(hash_file(file, SILENT), settled=settled)
    before = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as copying programs do
    assert not is_still(hashed, file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    with file.open("r+b") as stream:
        stream.write(b"right")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert not is_still(hashed, file)  # somebody wrote to it, whatever is there again


def another_name(file: Path) -> None:
    file.with_name("link").hardlink_to(file)


def other_rights(file: Path) -> None:
    file.chmod(0o444)


@pytest.mark.parametrize("touch", [another_name, other_rights])
def test_what_leaves_the_bytes_alone_is_no_change(file: Path, touch: Callable[[Path], None]) -> None:
    hashed = replace(hash_file(file, SILENT), settled=True)
    touch(file)
    assert is_still(hashed, file)


def test_another_file_under_the_name_is_another_file(file: Path) -> None:
    hashed = hash_file(file, SILENT)
    with file.open("rb") as opened:
        other = file.with_name("other")
        other.write_bytes(b"right")
        other.replace(file)
        assert hashed.is_still(opened.fileno())
        assert not is_still(hashed, file)


def test_times_tell_changes_apart_after_more_than_the_longest_tick(file: Path) -> None:
    for modified, changed in ((10, 7), (7, 10)):
        stamp = Stamp(5, modified * 10**9, changed * 10**9, inode=1, device=1)
        assert [stamp.settled_at(moment) for moment in (9.0, 10.0, 12.5, 13.5)] == [False, False, False, True]


class Slow:
    """Whoever hashes for longer than a file needs to settle, by a clock that begins when it was written."""

    def __init__(self, file: Path) -> None:
        self.now = max(file.stat().st_mtime, file.stat().st_ctime) + 0.5

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, amount: int) -> None:
        self.now += 3.2


def test_a_file_has_to_settle_before_it_is_hashed_not_meanwhile(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(file)
    monkeypatch.setattr("registry.files.hashed.time.time", lambda: slow.now)
    assert not hash_file(file, slow).settled  # what was read first may have been written over within the tick
    assert hash_file(file, SILENT).settled
