"""Locks on folders of the cache that a process keeps reading from, so that the cache does not evict them.

A lock that is shared by those who read; the cache sees it from any other process of the machine, and it ends with its
process, however that ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.files.opened import FolderLock, lock_folder
from registry.folders.scan import RECEIPT


class Hold:
    """A lock on a folder, which is not evicted until `release`."""

    def __init__(self, folder: Path, lock: FolderLock) -> None:
        self.folder = folder
        self._lock = lock

    def is_of(self, folder: Path) -> bool:
        """Whether this name still refers to the locked folder, and not to another that replaced it."""
        return self._lock.is_of(folder)

    def release(self) -> None:
        """Allow eviction again."""
        self._lock.close()


def hold(folder: Path) -> Hold | None:
    """Lock a complete folder; None if the cache evicted it first."""
    try:
        held = Hold(folder, lock_folder(folder, shared=True))
    except FileNotFoundError:
        return None
    if (folder / RECEIPT).is_file() and held.is_of(folder):
        return held
    held.release()
    return None


@contextmanager
def free(folder: Path) -> Iterator[bool]:
    """Yields whether nobody has locked the folder; if so, nobody can lock it until the block ends."""
    try:
        lock = lock_folder(folder, wait=False)
    except OSError:  # it is held, or gone, or another user's
        yield False
        return
    try:
        yield True
    finally:
        lock.close()
