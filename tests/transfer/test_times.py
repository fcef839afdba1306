"""Whether a folder is older than an adapter that was trained on it: only where times tell."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.schemas.parents import Times
from registry.transfer.file_times import Around, times_of, weights_in
from registry.transfer.trained_on import Beside, TrainedFolder
from tests.services.publishing.lying_clock import Clock

pytestmark = pytest.mark.usefixtures("real_times")
DAY = 86_400.0
NOW = time.time()


def written(file: Path, at: float, size: int = 10) -> Path:
    """A file that was written then."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(size))
    os.utime(file, (at, at))
    return file


def heap(root: Path, folder: float, adapter: float, config: float | None = None) -> tuple[Path, Path]:
    """A folder and an adapter's weights, written then."""
    written(root / "merged" / "model-1.safetensors", folder - 5)
    written(root / "merged" / "model-2.safetensors", folder)
    written(root / "out" / "adapter_config.json", adapter if config is None else config)
    return root / "merged", written(root / "out" / "adapter_model.safetensors", adapter)


def told(folder: Path, adapter: Path) -> Times:
    return times_of(weights_in(folder), adapter, Around.both(folder, adapter.parent))


@pytest.mark.parametrize(
    ("folder", "adapter", "expected"),
    [
        (NOW - 2 * DAY, NOW, "older"),
        (NOW, NOW - 2 * DAY, "newer"),
        (NOW - 20, NOW, "unknown"),  # one moment: in which order a copy writes means nothing
        (NOW, NOW - 20, "unknown"),
        (0.0, 0.0, "unknown"),  # as in images, whose files have no times
        (NOW - 2 * DAY, NOW + DAY, "unknown"),  # of a clock that was wrong
        (NOW + DAY, NOW, "unknown"),
    ],
    ids=["older", "newer", "moment", "moment-turned", "no-times", "adapter-of-tomorrow", "folder-of-tomorrow"],
)
def test_two_times(tmp_path: Path, folder: float, adapter: float, expected: Times) -> None:
    assert told(*heap(tmp_path, folder, adapter)) == expected


def test_a_long_copy_is_one_moment_too(tmp_path: Path) -> None:
    """Ten files of a share, each half a minute after the one before: nobody trained between the two."""
    folder, adapter = heap(tmp_path, NOW - 400, NOW)
    assert told(folder, adapter) == "older"
    for number in range(1, 10):
        written(tmp_path / "others" / f"{number}.safetensors", NOW - 400 + 40 * number)
    assert told(folder, adapter) == "unknown"
    assert not Around(tmp_path).in_one_go(NOW - 4000, NOW)
    assert Around(tmp_path).of_one_moment
    for number in range(1, 10):
        (tmp_path / "others" / f"{number}.safetensors").unlink()
    assert told(folder, adapter) == "older"


def test_an_adapter_that_was_touched_was_saved_before(tmp_path: Path) -> None:
    """Of its two files, which are saved together, the older one tells."""
    folder, adapter = heap(tmp_path, NOW - DAY, NOW, config=NOW - 2 * DAY)
    assert told(folder, adapter) == "unknown"


def test_what_was_put_there_later_with_older_times(tmp_path: Path) -> None:
    """As of another merge that was copied over the folder: the file system knows when that was."""
    folder, adapter = heap(tmp_path, NOW - 9 * DAY, NOW - 5 * DAY)
    file = adapter.stat()
    if file.st_ctime - file.st_mtime < DAY:
        raise AssertionError("the time of the change is not that of the file system")
    assert told(folder, adapter) == "older"  # both were put there together
    real = Path.stat

    def stat(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = real(self, follow_symlinks=follow_symlinks)
        if self.parent.name != "out":
            return found
        numbers = list(found)
        return os.stat_result([*numbers[:9], int(found.st_mtime)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "stat", stat)  # nobody can set that time
        assert told(folder, adapter) == "unknown"


def test_a_heap_that_was_copied(tmp_path: Path) -> None:
    root = tmp_path / "heap"
    folder, adapter = heap(root, NOW - 9 * DAY, NOW - 5 * DAY)
    kept = shutil.copytree(root, tmp_path / "kept")
    assert told(kept / "merged", kept / "out" / adapter.name) == "older"
    assert told(folder, adapter) == "older"
    lost = tmp_path / "lost"
    for file in sorted(root.rglob("*.*")):
        (lost / file.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, lost / file.relative_to(root))
    assert Around(lost).of_one_moment


def test_nothing_can_be_told_of_what_is_gone(tmp_path: Path) -> None:
    folder, adapter = heap(tmp_path, NOW - DAY, NOW)
    adapter.unlink()
    assert told(folder, adapter) == "unknown"
    assert times_of([], written(tmp_path / "adapter_model.safetensors", NOW), Around(None)) == "unknown"


def test_weights_beside_an_adapter_that_was_saved_there(tmp_path: Path) -> None:
    for name in ("model.safetensors", "adapter_model.safetensors", "optimizer.bin"):
        written(tmp_path / name, NOW)
    assert [file.name for file in weights_in(tmp_path)] == ["model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    assert [file.name for file in weights_in(tmp_path)] == ["adapter_model.safetensors"]


@pytest.fixture
def as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Files and folders that were put there when they were written; what a test says was put there later."""
    clock = Clock()
    folder, adapter = heap(tmp_path / "runs" / "a", NOW - 9 * DAY, NOW - 5 * DAY)
    for place, at in ((tmp_path / "runs", NOW - 9 * DAY), (adapter.parent, NOW - 5 * DAY), (folder, NOW - 9 * DAY)):
        clock.stamp(place, at)
    with clock.shown(monkeypatch):
        yield clock


def named(place: Path, adapter: Path) -> Times:
    return times_of(weights_in(place), adapter, Around(adapter.parents[3]), place=place)


def test_a_name_that_was_linked_to_another_folder_since(tmp_path: Path, as_written: Clock) -> None:
    folder, adapter = tmp_path / "runs/a/merged", tmp_path / "runs/a/out/adapter_model.safetensors"
    link = tmp_path / "current"
    link.symlink_to(folder)
    as_written.stamp(link, NOW - 8 * DAY)
    assert named(link, adapter) == "older"
    as_written.stamp(link, NOW - DAY)
    assert named(link, adapter) == "newer"
    (tmp_path / "elsewhere").symlink_to(tmp_path / "runs")
    as_written.stamp(tmp_path / "elsewhere", NOW - DAY)
    assert named(tmp_path / "elsewhere/a/merged", adapter) == "unknown"


@pytest.mark.parametrize("renamed", ["runs/a/merged", "runs/a", "runs"])
def test_a_folder_that_was_given_the_name_since(renamed: str, tmp_path: Path, as_written: Clock) -> None:
    """No file was written or changed: another folder has the name now."""
    folder, adapter = tmp_path / "runs/a/merged", tmp_path / "runs/a/out/adapter_model.safetensors"
    assert named(folder, adapter) == "older"
    as_written.changed[str(tmp_path / renamed)] = NOW - DAY
    assert named(folder, adapter) == "unknown"


def test_a_folder_that_something_came_into_since_may_have_got_its_name_before(
    tmp_path: Path, as_written: Clock
) -> None:
    folder, adapter = tmp_path / "runs/a/merged", tmp_path / "runs/a/out/adapter_model.safetensors"
    os.utime(folder, (NOW - DAY, NOW - DAY))
    as_written.changed[str(folder)] = NOW - DAY
    assert named(folder, adapter) == "unknown"


def test_what_came_into_a_folder_above_since_means_nothing(tmp_path: Path, as_written: Clock) -> None:
    folder, adapter = tmp_path / "runs/a/merged", tmp_path / "runs/a/out/adapter_model.safetensors"
    os.utime(tmp_path / "runs", (NOW - DAY, NOW - DAY))
    as_written.changed[str(tmp_path / "runs")] = NOW - DAY
    assert named(folder, adapter) == "older"


def test_a_receipt_without_weights_has_times_too(tmp_path: Path) -> None:
    folder, adapter = heap(tmp_path, NOW - 9 * DAY, NOW - 5 * DAY)
    for file in folder.iterdir():
        file.unlink()
    for at, expected in ((NOW - 9 * DAY, "older"), (NOW - DAY, "newer")):
        written(folder / "registry-receipt.json", at)
        assert Beside.of(TrainedFolder(folder, "it"), adapter, Around(None)).times == expected
