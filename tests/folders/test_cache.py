"""The cache: what it removes, what is not its own to remove, and other users and processes that share it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.folders.scan import RECEIPT
from registry.folders.staging import FetchCache, hold
from tests.folders.nobody import as_nobody, public_folder
from tests.root import ROOT


def name(number: int) -> str:
    return f"{number:064x}"


def fetched(cache: Path, number: int, size: int = 10) -> Path:
    """A folder as a fetch leaves it; of a larger number: used later."""
    folder = cache / name(number)
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/weights").write_bytes(b"x" * size)
    (folder / RECEIPT).write_text("{}")
    os.utime(folder / RECEIPT, (number, number))
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_least_recently_used_go(tmp_path: Path) -> None:
    one, _, three = (fetched(tmp_path, number) for number in (1, 2, 3))
    cache = FetchCache(tmp_path, limit=30)
    cache.used(one)
    cache.shrink(keep=three)
    assert sorted(tmp_path.iterdir()) == [one, three]
    FetchCache(tmp_path, limit=0).shrink(keep=three)
    assert list(tmp_path.iterdir()) == [three]


def test_what_the_cache_did_not_make_stays(tmp_path: Path) -> None:
    mine = ["thesis/draft.txt", "photo.jpg", f"{name(7)}/mine", ".config/x", f".{name(8)}.fetch-mine/x"]
    mine += [f".notes.fetch-{'0' * 12}/x", f"{'A' * 64}/{RECEIPT}", f"{name(9)}0/{RECEIPT}", f"trained/{RECEIPT}"]
    for path in mine:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("mine")
    (tmp_path / name(10)).write_text("a file of such a name")
    fetched(tmp_path, 1)
    kept = fetched(tmp_path, 2)
    litter = tmp_path / f".{name(3)}.fetch-{'0' * 12}"
    litter.mkdir()
    FetchCache(tmp_path, limit=0).shrink(keep=kept)
    assert files(tmp_path) == {*mine, name(10), f"{name(2)}/{RECEIPT}", f"{name(2)}/deep/weights"}
    assert not litter.exists()


def test_what_is_held_stays_until_it_is_released(tmp_path: Path) -> None:
    one, two = fetched(tmp_path, 1), fetched(tmp_path, 2)
    held = hold(one)
    assert held is not None
    cache = FetchCache(tmp_path, limit=0)
    cache.shrink(keep=two)
    assert one.is_dir()
    held.release()
    cache.shrink(keep=two)
    assert hold(one) is None


SHRINKING = """
import sys
from pathlib import Path
from registry.folders.staging import FetchCache
from tests.folders.test_cache import fetched
place, mine = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(mine, mine + 300):
    FetchCache(place, limit=60).shrink(keep=fetched(place, number))
"""


@pytest.mark.slow
def test_processes_that_shrink_it_at_once_do_not_hinder_each_other(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SHRINKING, str(tmp_path), str(first)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (1000, 2000)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    assert [worker.communicate()[1] for worker in workers] == ["", ""]
    assert [worker.returncode for worker in workers] == [0, 0]
    FetchCache(tmp_path, limit=60).shrink(keep=tmp_path / name(2299))
    assert {folder.name for folder in tmp_path.iterdir()} >= {name(2299)}
    assert len(list(tmp_path.iterdir())) < 10


@pytest.fixture
def others() -> Iterator[Path]:
    """A cache that another user filled."""
    with public_folder() as place:
        yield place


def _writable(cache: Path, folder: Path) -> None:
    cache.chmod(0o777)
    folder.chmod(0o555)


def _closed(cache: Path, folder: Path) -> None:
    folder.chmod(0)
    cache.chmod(0o555)


@pytest.mark.parametrize("rights", [_writable, _closed])
def test_folders_of_another_user_stay_whole(others: Path, rights: Callable[[Path, Path], None]) -> None:
    one, two = fetched(others, 1), fetched(others, 2)
    before = files(others)
    (others / f".{name(3)}.fetch-{'0' * 12}").mkdir(mode=0o700)
    rights(others, one)
    cache = FetchCache(others, limit=0)
    with as_nobody():
        cache.used(one)
        cache.shrink(keep=two)
    one.chmod(0o755)
    assert files(others) == before
