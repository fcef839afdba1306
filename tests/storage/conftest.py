"""Drivers and stores for the tests of the storage layer. A new driver is added to `KINDS` and meets all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.storage.blobs import BlobStore
from registry.storage.filesystem import FilesystemDriver
from registry.storage.memory import MemoryDriver
from registry.storage.s3 import S3Driver
from registry.storage.staging import StagingDriver
from tests.kit.servers import S3Place
from tests.root import ROOT

KINDS = ("filesystem", "memory", "s3")

StartScript = Callable[..., "subprocess.Popen[str]"]
MakeS3 = Callable[..., S3Driver]


def everything(driver: StagingDriver, root: Path) -> list[str]:
    """All that a driver keeps, also what it keeps for itself."""
    if isinstance(driver, MemoryDriver):
        return sorted([*driver._objects, *driver._uploads])
    if isinstance(driver, S3Driver):
        bucket = driver._bucket
        unfinished = [f"{key} unfinished" for key, _, _ in bucket.uploads("")]
        return sorted([*(one.key for one in bucket.objects("")), *unfinished])
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.parent.name == "staging"
    )


@pytest.fixture
def s3_settings(s3_store: S3Place, monkeypatch: pytest.MonkeyPatch) -> S3Place:
    """An empty place in a bucket, and the environment set up for it and for nothing else."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    for name, value in s3_store.environ.items():
        monkeypatch.setenv(name, value)
    return s3_store


@pytest.fixture
def make_s3(s3_settings: S3Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeS3]:
    """Makes drivers for the same place, by way of another address if one is given; they are closed afterwards.

    Faults at that address are met once. The real store may close a connection that it keeps at any time.
    """
    made: list[S3Driver] = []

    def make(
        endpoint: str | None = None, url: str | None = None, *, attempts: int | None = None, **options: object
    ) -> S3Driver:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint or s3_settings.endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(attempts or (1 if endpoint else 3)))
        made.append(S3Driver(url or s3_settings.url, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for driver in made:
        driver.close()


@pytest.fixture(params=KINDS)
def any_driver(request: pytest.FixtureRequest, root: Path) -> StagingDriver:
    """An empty driver of each kind."""
    if request.param == "filesystem":
        return FilesystemDriver(root)
    if request.param == "memory":
        return MemoryDriver()
    make: MakeS3 = request.getfixturevalue("make_s3")
    return make(attempts=3)


@pytest.fixture
def driver(any_driver: StagingDriver, root: Path) -> Iterator[StagingDriver]:
    """An empty driver of each kind; a test that leaves an object or litter behind fails."""
    yield any_driver
    assert everything(any_driver, root) == []
    assert any_driver.clear_litter() == 0


@pytest.fixture
def left(any_driver: StagingDriver, root: Path) -> Callable[[], list[str]]:
    """All that the driver of the test keeps, also what it keeps for itself."""
    return lambda: everything(any_driver, root)


@pytest.fixture
def store(any_driver: StagingDriver, root: Path) -> Iterator[BlobStore]:
    """A blob store on each kind of driver; litter fails the test, blobs do not."""
    yield BlobStore(any_driver)
    assert any_driver.clear_litter() == 0
    assert [name for name in everything(any_driver, root) if name.startswith(("tmp/", "incoming/"))] == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of `folder_store`, and of `any_driver` where that is in a folder."""
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
            cwd=ROOT,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()
