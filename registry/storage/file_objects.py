"""Objects as files: readers, and writers of uncommitted ones."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from registry.errors import IntegrityError
from registry.folders.local_files import telling_unusable
from registry.storage.driver import ObjectReader, StoredBy
from registry.storage.staging import TMP, TemporaryFile

FICLONE: Final = 0x40049409  # linux/fs.h; the same on every architecture that this package runs on
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class FileReader:
    """An open file, read with ``pread`` so that threads share no position."""

    ahead = 0

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self._size = status.st_size

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with telling_unusable(self._root):
            while buffer:
                count = os.preadv(self._fd, [buffer], offset)
                if count == 0:
                    raise IntegrityError(
                        f"{self._path} ends at byte {offset}, but more was expected: it was truncated."
                    )
                buffer = buffer[count:]
                offset += count

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FileWriter:
    """An uncommitted file of `FilesystemDriver`."""

    def __init__(self, root: Path, temporary: TemporaryFile) -> None:
        self._root = root
        self._temporary = temporary
        self._stored_by: StoredBy = "copy"

    @property
    def stored_by(self) -> StoredBy:
        return self._stored_by

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        with telling_unusable(self._root):
            while view:
                view = view[os.write(self._temporary.fd, view) :]

    def open(self) -> ObjectReader:
        with telling_unusable(self._root):
            return FileReader(self._root, self._temporary.path)

    def take_link(self, file: Path) -> None:
        """Become a hard link to ``file``; raises `OSError`."""
        self._temporary.link(file)
        self._stored_by = "link"

    def take_reflink(self, file: Path) -> None:
        """Share the blocks of ``file``; raises `OSError`."""
        source = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(self._temporary.fd, FICLONE, source)
        finally:
            os.close(source)
        self._stored_by = "reflink"

    def sync(self) -> None:
        """Make the bytes durable and, unless it is a link to the user's own file, read-only; raises `OSError`."""
        if self._stored_by != "link":
            os.fchmod(self._temporary.fd, os.fstat(self._temporary.fd).st_mode & 0o444)
            _sync_data(self._temporary.fd)
            return
        fd = os.open(self._temporary.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _sync_data(fd)
        finally:
            os.close(fd)

    def move(self, target: Path) -> None:
        """Give the file its final name; raises `FileExistsError` if that is taken, and other `OSError`."""
        try:
            os.link(self._temporary.path, target)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # Without hard links a rename is the remaining atomic way, but it would replace an existing file.
            if target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
            self._temporary.path.rename(target)

    def put_at(self, target: Path) -> None:
        """Give the file a name, replacing any file of this name; raises `OSError`."""
        self._temporary.path.rename(target)

    def close(self) -> None:
        """Remove the temporary names."""
        with telling_unusable(self._root):
            self._temporary.remove()

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def start_file(root: Path) -> FileWriter:
    """A file without a key, in the store ``root``, which is created if needed."""
    folder = root / TMP
    with telling_unusable(root):
        try:
            temporary = TemporaryFile(folder)
        except FileNotFoundError:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = TemporaryFile(folder)
    return FileWriter(root, temporary)


def _sync_data(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)
