"""Objects as files below one folder.

Written to ``tmp/``, synced, hard-linked to the final name (which never overwrites), and then the folder is synced.
Read with ``pread``: a mapping would turn a truncated file into a crash of the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from registry.errors import IntegrityError, NotFoundError, UsageError
from registry.storage.driver import Commit, ObjectReader, ObjectWriter, StoredBy, check_key
from registry.storage.medium import medium, medium_error
from registry.storage.temporary import TMP, TemporaryFile, clear_litter

FICLONE: Final = 0x40049409  # linux/fs.h; the same number on every architecture that this package runs on
_SYNCS: Final = 16
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_CANT_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})


class FileReader:
    """An open file, read with ``pread`` so that threads share no position."""

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
        with medium(self._root):
            while buffer:
                count = os.preadv(self._fd, [buffer], offset)
                if count == 0:
                    raise IntegrityError(f"{self._path} ends at byte {offset}, more was expected: it was cut short.")
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
        with medium(self._root):
            while view:
                view = view[os.write(self._temporary.fd, view) :]

    def open(self) -> ObjectReader:
        with medium(self._root):
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
        """Make the bytes durable and, unless they are a user's own file, read-only; raises `OSError`."""
        if self._stored_by != "link":
            os.fchmod(self._temporary.fd, os.fstat(self._temporary.fd).st_mode & 0o444)
            _sync_data(self._temporary.fd)
            return
        fd = os.open(self._temporary.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _sync_data(fd)
        finally:
            os.close(fd)

    def move(self, target: Path, *, replace: bool) -> bool:
        """Give the file its final name; False when that is taken. Raises `OSError`."""
        if replace:
            self._temporary.path.rename(target)
            return True
        try:
            os.link(self._temporary.path, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # Without hard links a rename is the atomic way left. It may replace what another process committed
            # a moment ago, which holds the same bytes.
            if target.exists():
                return False
            self._temporary.path.rename(target)
        return True

    def close(self) -> None:
        """Remove the temporary names."""
        with medium(self._root):
            self._temporary.remove()

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class FilesystemDriver:
    """Objects as files below ``root``, which is made by the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._settled: set[Path] = set()

    @property
    def place(self) -> str:
        return str(self._root)

    def writer(self) -> ObjectWriter:
        return self._start()

    def take_file(self, file: Path, *, link: bool) -> ObjectWriter | None:
        writer = self._start()
        try:
            if link:
                writer.take_link(file)
            else:
                writer.take_reflink(file)
        except OSError as error:
            writer.close()
            if not file.is_file():
                raise NotFoundError(f"There is no file {file}: it was removed while it was being added.") from error
            if not link:
                return None
            if error.errno in _CANT_LINK:
                raise UsageError(
                    f"{file} can't be linked into {self._root} ({os.strerror(error.errno)}): a hard link needs the "
                    "same file system and a file of your own; leave out the link option to store a copy."
                ) from error
            raise medium_error(self._root, error) from error
        except BaseException:
            writer.close()
            raise
        return writer

    def commit(self, commits: Sequence[Commit]) -> list[bool]:
        moves = [(_own(one.writer), self._path(one.key), one.replace) for one in commits]
        with medium(self._root):
            for _, target, _ in moves:
                target.parent.mkdir(parents=True, exist_ok=True)
            _sync_all([writer for writer, target, replace in moves if replace or not target.exists()])
            made = [writer.move(target, replace=replace) for writer, target, replace in moves]
            self._sync_folders([target.parent for _, target, _ in moves])
        for writer, _, _ in moves:
            writer.close()
        return made

    def settle(self, keys: Sequence[str]) -> None:
        with medium(self._root):
            self._sync_folders([self._path(key).parent for key in keys])

    def open(self, key: str) -> ObjectReader:
        path = self._path(key)
        with medium(self._root):
            try:
                return FileReader(self._root, path)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFoundError(f"There is no object {key} in {self._root}.") from error

    def size(self, key: str) -> int | None:
        with medium(self._root):
            try:
                status = self._path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def delete(self, key: str) -> None:
        with medium(self._root):
            self._path(key).unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        with medium(self._root):
            yield from _walk(self._root, "", prefix)

    def clear_litter(self) -> int:
        with medium(self._root):
            return clear_litter(self._root / TMP)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _start(self) -> FileWriter:
        folder = self._root / TMP
        with medium(self._root):
            try:
                temporary = TemporaryFile(folder)
            except FileNotFoundError:
                folder.mkdir(parents=True, exist_ok=True)
                temporary = TemporaryFile(folder)
        return FileWriter(self._root, temporary)

    def _sync_folders(self, folders: Sequence[Path]) -> None:
        """Sync each folder once, and the folders above it the first time that this driver meets them.

        A folder that is already there may have been made a moment ago by a process that has not synced yet.
        """
        above = {parent for folder in folders for parent in folder.parents if parent.is_relative_to(self._root)}
        for folder in sorted({*folders, *(above - self._settled)}, reverse=True):
            _sync_folder(folder)
        if self._root not in self._settled:
            _sync_folder(self._root.parent)
        self._settled |= above


def _own(writer: ObjectWriter) -> FileWriter:
    if not isinstance(writer, FileWriter):
        raise TypeError(f"a {type(writer).__name__} is no writer of this driver")
    return writer


def _sync_all(writers: Sequence[FileWriter]) -> None:
    """Sync together: the file system then makes many files durable by one write to its journal."""
    if len(writers) < 2:
        for writer in writers:
            writer.sync()
        return
    with ThreadPoolExecutor(max_workers=min(len(writers), _SYNCS), thread_name_prefix="sync") as pool:
        for done in [pool.submit(writer.sync) for writer in writers]:
            done.result()


def _sync_data(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _walk(folder: Path, above: str, prefix: str) -> Iterator[str]:
    """Keys in the order of their text, which is the order of names when a folder counts as ``name/``."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries)
    except FileNotFoundError:
        return
    for name in names:
        key = above + name
        if key == f"{TMP}/":
            continue
        if name.endswith("/"):
            if key.startswith(prefix) or prefix.startswith(key):
                yield from _walk(folder / name, key, prefix)
        elif key.startswith(prefix) and above:
            yield key
