"""Open files, and locks on folders, as POSIX and Windows have them: what differs between the two is here.

On POSIX a lock is a ``flock`` on the folder itself, which any process of the machine sees, also on a folder that it
may only read. Windows opens no folders: on it the lock is a range of a hidden file next to the folder; a shared lock
takes one byte of it, an exclusive one takes all. Either way the lock ends with its process, however that ends.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

try:
    import fcntl

    _IS_POSIX = True
except ImportError:
    _IS_POSIX = False
    _msvcrt: Any = import_module("msvcrt")

_FLAGS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_HAS_PLACES: Final = hasattr(os, "preadv") and hasattr(os, "pwrite")
_seeking = threading.Lock()
"""Held while the position of a file is used, where files can't be read without one."""
_READ: Final = 8 << 20
_SHARERS: Final = 64  # bytes of the range
_LOOK_EVERY: Final = 0.02  # seconds


def open_to_read(file: Path) -> int:
    """A descriptor of a file, which no child inherits; raises OSError."""
    return os.open(file, os.O_RDONLY | _FLAGS)


def open_new(file: Path) -> int:
    """A descriptor of a file that did not exist before; raises OSError."""
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o644)


def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill a buffer, or the beginning of it, from a place in a file, from any thread; 0 at its end."""
    if _HAS_PLACES:
        return os.preadv(descriptor, [buffer], offset)
    with _seeking:
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, min(len(buffer), _READ))
    buffer[: len(data)] = data
    return len(data)


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write to a place in a file, from any thread; how many bytes were written."""
    if _HAS_PLACES:
        return os.pwrite(descriptor, data, offset)
    with _seeking:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


def sync_folder(folder: Path) -> None:
    """Make the directory entries of a folder durable; Windows has no call for it."""
    if not _IS_POSIX:
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def others_may_open(descriptor: int) -> bool:
    """Whether the mode of a file lets other users of the machine in; on Windows modes don't describe them."""
    return hasattr(os, "getuid") and bool(os.fstat(descriptor).st_mode & 0o077)


class FolderLock:
    """A lock on a folder, until it is closed."""

    def __init__(self, folder: Path, descriptor: int, taken: tuple[int, int] | None = None) -> None:
        self._folder = folder
        self._descriptor = descriptor
        self._taken = taken  # where in the file next to the folder, and how much of it
        self._stat = os.fstat(descriptor) if taken is None else folder.stat()

    def is_of(self, folder: Path) -> bool:
        """Whether this name still refers to the locked folder, and not to another that replaced it."""
        try:
            return os.path.samestat(self._stat, folder.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let others have it."""
        if self._taken is not None:
            _range(self._descriptor, _msvcrt.LK_UNLCK, *self._taken)
        os.close(self._descriptor)
        if self._taken is not None and not self._folder.exists():
            with suppress(OSError):  # somebody else waits with it open
                _beside(self._folder).unlink()


def lock_folder(folder: Path, *, shared: bool = False, wait: bool = True) -> FolderLock:
    """Lock a folder, alone or with others who share the lock.

    Raises:
        BlockingIOError: somebody else has it, and this does not ``wait``.
        OSError: the folder does not exist, or can't be locked.
    """
    if not _IS_POSIX:
        return _lock_beside(folder, shared=shared, wait=wait)
    descriptor = os.open(folder, os.O_RDONLY | _FLAGS)
    try:
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, how if wait else how | fcntl.LOCK_NB)
        return FolderLock(folder, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _lock_beside(folder: Path, *, shared: bool, wait: bool) -> FolderLock:
    folder.stat()  # raises if it does not exist
    descriptor = os.open(_beside(folder), os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
    try:
        while (taken := _take(descriptor, shared=shared)) is None:
            if not wait:
                break
            time.sleep(_LOOK_EVERY)
        else:
            return FolderLock(folder, descriptor, taken)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    raise BlockingIOError(f"{folder} is locked.")


def _take(descriptor: int, *, shared: bool) -> tuple[int, int] | None:
    """Lock a byte of the range, or all of it; None: others have it."""
    for at, size in [(at, 1) for at in range(_SHARERS)] if shared else [(0, _SHARERS)]:
        with suppress(OSError):
            _range(descriptor, _msvcrt.LK_NBLCK, at, size)
            return at, size
    return None


def _range(descriptor: int, how: int, at: int, size: int) -> None:
    """Lock a range of a file, or unlock it, as Windows does: from the position on."""
    os.lseek(descriptor, at, os.SEEK_SET)
    _msvcrt.locking(descriptor, how, size)
