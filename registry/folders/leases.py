"""Locks on folders of the cache that a process keeps reading from, so that the cache does not evict them.

A lock is a shared ``flock`` on the folder. It ends with its process, however that ends, and the cache sees it from any
other process of the machine.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.folders.scan import RECEIPT


class Hold:
    """A lock on a folder, which is not evicted until `release`."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor

    def is_of(self, folder: Path) -> bool:
        """Whether this name still refers to the locked folder, and not to another that replaced it."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), folder.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Allow eviction again."""
        os.close(self._descriptor)


def hold(folder: Path) -> Hold | None:
    """Lock a complete folder; None if the cache evicted it first."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    held = Hold(folder, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if (folder / RECEIPT).is_file() and held.is_of(folder):
        return held
    held.release()
    return None


@contextmanager
def free(folder: Path) -> Iterator[bool]:
    """Yields whether nobody has locked the folder; if so, nobody can lock it until the block ends."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it is gone, or another user's
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
