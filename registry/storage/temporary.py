"""Files without a key yet, in ``<root>/tmp``, and how those of killed writers are recognised.

A writer creates ``<32 hex>.part`` and has an exclusive ``flock`` on it as long as it lives; the kernel drops the lock
when the process dies, for whatever reason. So a ``.part`` whose lock can be taken has no writer, with one exception:
the moment between creating the file and locking it. There `clear_litter` may take the lock first and remove the file.
The writer notices after it has the lock, because its file has no name any more (``st_nlink`` is 0), and creates another
one. A hard link to a user's file is ``<32 hex>.link`` beside the ``.part`` that guards it: a lock on the link would be
a lock on the user's own file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from pathlib import Path
from typing import Final

from registry.errors import UnavailableError

TMP: Final = "tmp"
_PART: Final = re.compile(r"[0-9a-f]{32}\.part")
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


class TemporaryFile:
    """One locked file in ``folder``. Raises `OSError`, which the driver maps."""

    def __init__(self, folder: Path) -> None:
        self._part, self.fd = _make_locked(folder)
        self._link: Path | None = None

    @property
    def path(self) -> Path:
        """The file that will become the object."""
        return self._link or self._part

    def link(self, file: Path) -> None:
        """Make a hard link to ``file`` the future object."""
        link = self._part.with_suffix(".link")
        # To the file itself: Linux would link a symbolic link as such.
        os.link(file.resolve(strict=True), link)
        self._link = link

    def remove(self) -> None:
        """Remove what is left under the temporary names and drop the lock. Idempotent."""
        if self.fd < 0:
            return
        try:
            if self._link is not None:
                self._link.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)
        finally:
            os.close(self.fd)
            self.fd = -1


def clear_litter(folder: Path) -> int:
    """Remove the files of dead writers; returns how many there were. Other names in ``folder`` are ignored."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if _PART.fullmatch(entry.name))
    except FileNotFoundError:
        return 0
    return sum(_clear_one(folder / name) for name in names)


def _clear_one(part: Path) -> bool:
    fd = _open_own(part)
    if fd is None:
        return False
    try:
        if not _lock(fd, part.parent):
            return False
        part.with_suffix(".link").unlink(missing_ok=True)
        part.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)


def _open_own(part: Path) -> int | None:
    """Open a file to lock it; None if it is gone or another user's."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        # For writing, because network file systems grant an exclusive lock only then.
        return os.open(part, os.O_RDWR | flags)
    except FileNotFoundError:
        return None
    except PermissionError:
        pass
    # Read-only: it was about to become an object, and may be one by now under another name, so it is left read-only.
    try:
        fd = os.open(part, os.O_RDONLY | flags)
    except (FileNotFoundError, PermissionError):
        return None
    if os.fstat(fd).st_uid == os.geteuid():
        return fd
    os.close(fd)
    return None


def _make_locked(folder: Path) -> tuple[Path, int]:
    while True:
        part = folder / f"{secrets.token_hex(16)}.part"
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            if _lock(fd, folder) and os.fstat(fd).st_nlink > 0:
                return part, fd
            os.close(fd)
        except BaseException:
            os.close(fd)
            part.unlink(missing_ok=True)
            raise


def _lock(fd: int, folder: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise UnavailableError(
                f"The file system of {folder.parent} can't lock files, so running writers can't be told from dead "
                "ones: keep the registry on a local disk, or use a server with an object store."
            ) from error
        if error.errno == errno.EBADF:  # on a network file system, for a file opened read-only
            return False
        raise
    return True
