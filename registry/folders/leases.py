"""Folders of the cache that a program goes on reading from: held, so that the cache does not remove them meanwhile.

A hold is a shared lock on the folder. It ends with the process that has it, however that ends, and the cache can see it
from any other process of the machine.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.folders.scan import RECEIPT


class Hold:
    """A folder that stays where it is until `release`."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor

    def is_of(self, folder: Path) -> bool:
        """Whether the folder of that name is the one that is held, and not another that took its name."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), folder.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let the cache have the folder."""
        os.close(self._descriptor)


def hold(folder: Path) -> Hold | None:
    """Hold a complete folder; None where the cache was quicker and it is gone."""
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
    """Whether nobody holds the folder; if so, nobody can hold it until this is left."""
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
