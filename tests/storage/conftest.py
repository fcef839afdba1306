"""Drivers and stores for the tests of the storage layer. A new driver is added to `DRIVERS` and meets all of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.storage.blobs import BlobStore
from registry.storage.driver import ObjectDriver
from registry.storage.filesystem import FilesystemDriver
from registry.storage.memory import MemoryDriver

DRIVERS: dict[str, Callable[[Path], ObjectDriver]] = {
    "filesystem": FilesystemDriver,
    "memory": lambda _: MemoryDriver(),
}

StartScript = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=sorted(DRIVERS))
def any_driver(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectDriver:
    """An empty driver of each kind."""
    return DRIVERS[request.param](tmp_path / "store")


@pytest.fixture
def driver(any_driver: ObjectDriver) -> Iterator[ObjectDriver]:
    """An empty driver of each kind; a test that leaves an object or litter behind fails."""
    yield any_driver
    assert list(any_driver.keys("")) == []
    assert any_driver.clear_litter() == 0


@pytest.fixture
def store(any_driver: ObjectDriver) -> Iterator[BlobStore]:
    """A blob store on each kind of driver; litter fails the test, blobs do not."""
    yield BlobStore(any_driver)
    assert any_driver.clear_litter() == 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of `folder_store`."""
    return tmp_path / "store"


@pytest.fixture
def folder_store(root: Path) -> BlobStore:
    """A blob store in a folder."""
    return BlobStore(FilesystemDriver(root))


@pytest.fixture
def start_script() -> Iterator[StartScript]:
    """Starts a Python script as a process of its own; what still runs at the end of the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()
