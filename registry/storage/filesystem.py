"""Objects as files below one folder.

Written to ``tmp/``, synced, hard-linked to the final name (which never overwrites), and then the folder is synced.
Read with ``pread``: with a memory mapping, a truncated file would crash the process.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from registry.errors import NotFoundError, UsageError
from registry.folders.errors import telling_unusable, unusable
from registry.storage.driver import Commit, ObjectInfo, ObjectReader, ObjectWriter, check_key, key_taken
from registry.storage.file_objects import FileReader, FileWriter, start_file
from registry.storage.folder_staging import FolderStaging
from registry.storage.layout import RESERVED
from registry.storage.temporary import TMP, clear_litter

_SYNCS: Final = 16
_CANT_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})


class FilesystemDriver(FolderStaging):
    """Objects as files below ``root``, which is created by the first write."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._settled: set[Path] = set()

    @property
    def place(self) -> str:
        return str(self._root)

    def ping(self) -> None:
        with telling_unusable(self._root):
            there = next(folder for folder in (self._root, *self._root.absolute().parents) if folder.exists())
            if not there.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
            if not os.access(there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))

    def writer(self) -> ObjectWriter:
        return start_file(self._root)

    def take_file(self, file: Path, *, link: bool) -> ObjectWriter | None:
        writer = start_file(self._root)
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
            raise unusable(self._root, error) from error
        except BaseException:
            writer.close()
            raise
        return writer

    def commit(self, commits: Sequence[Commit]) -> None:
        moves = [(_own(one.writer), self._path(one.key), one.key) for one in commits]
        with telling_unusable(self._root):
            for _, target, _ in moves:
                target.parent.mkdir(parents=True, exist_ok=True)
            _at_once([writer.sync for writer, _, _ in moves])
            for writer, target, key in moves:
                try:
                    writer.move(target)
                except FileExistsError as error:
                    raise key_taken(key, self.place) from error
            self._sync_folders([target.parent for _, target, _ in moves])
        for writer, _, _ in moves:
            writer.close()

    def open(self, key: str, size: int | None = None) -> ObjectReader:
        del size
        path = self._path(key)
        with telling_unusable(self._root):
            try:
                return FileReader(self._root, path)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFoundError(f"There is no object {key} in {self._root}.") from error

    def size(self, key: str) -> int | None:
        with telling_unusable(self._root):
            try:
                status = self._path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def delete(self, key: str) -> None:
        with telling_unusable(self._root):
            self._path(key).unlink(missing_ok=True)

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        with telling_unusable(self._root):
            yield from _walk(self._root, "", prefix)

    def clear_litter(self) -> int:
        with telling_unusable(self._root):
            return clear_litter(self._root / TMP)

    def close(self) -> None:
        """Nothing to release."""

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _sync_folders(self, folders: Sequence[Path]) -> None:
        """Sync each folder once, and the folders above it the first time that this driver uses them.

        An existing folder may have been created just now by a process that has not synced it yet.
        """
        above = {parent for folder in folders for parent in folder.parents if parent.is_relative_to(self._root)}
        wanted = {*folders, *(above - self._settled)}
        if self._root not in self._settled:
            wanted.add(self._root.parent)
        _at_once([partial(_sync_folder, folder) for folder in sorted(wanted)])
        self._settled |= above


def _own(writer: ObjectWriter) -> FileWriter:
    if not isinstance(writer, FileWriter):
        raise TypeError(f"a {type(writer).__name__} is no writer of this driver")
    return writer


def _at_once(syncs: Sequence[Callable[[], None]]) -> None:
    """Sync in parallel: the file system then makes many files or folders durable with one journal write."""
    if len(syncs) < 2:
        for sync in syncs:
            sync()
        return
    with ThreadPoolExecutor(max_workers=min(len(syncs), _SYNCS), thread_name_prefix="sync") as pool:
        for done in [pool.submit(sync) for sync in syncs]:
            done.result()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _walk(folder: Path, above: str, prefix: str) -> Iterator[ObjectInfo]:
    """Objects in the order of their keys, which is the order of names if a folder counts as ``name/``."""
    try:
        with os.scandir(folder) as entries:
            found = {f"{one.name}/" if one.is_dir(follow_symlinks=False) else one.name: one for one in entries}
    except FileNotFoundError:
        return
    for name in sorted(found):
        key = above + name
        if key in RESERVED:
            continue
        if name.endswith("/"):
            if key.startswith(prefix) or prefix.startswith(key):
                yield from _walk(folder / name, key, prefix)
        elif key.startswith(prefix) and above:
            try:
                status = found[name].stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            # The time of the last change of the inode: a linked file may have been written years ago.
            yield ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_ctime, UTC))
