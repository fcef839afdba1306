"""Objects as files below one folder.

Written to ``tmp/``, synced, hard-linked to the final name (which never overwrites), and then the folder is synced.
Read with ``pread``: with a memory mapping, a truncated file would crash the process.

Uploads in a folder: ``staging/<32 hex>/`` contains one file per part, named by its number.

Parts come through the service only. They are written to ``tmp/`` and renamed when complete. They are not synced: damage
by a power cut is found when the joined bytes are hashed, and the client sends them again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from registry.errors import NotFoundError, UsageError
from registry.folders.local_files import telling_unusable, unusable
from registry.storage.driver import (
    RESERVED,
    STAGING,
    Commit,
    ObjectInfo,
    ObjectReader,
    ObjectWriter,
    check_key,
    key_taken,
)
from registry.storage.file_objects import FileReader, FileWriter, start_file
from registry.storage.staging import TMP, Staging, clear_litter, new_staging, require_parts, staging_gone, whole_part

_CHUNK: Final = 1 << 20
_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})


class FolderStaging:
    """The part of `FilesystemDriver` that handles uploads."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def begin_staging(self, size: int, part_size: int, digest: str) -> Staging:
        del digest
        staging = new_staging(size, part_size)
        with telling_unusable(self._root):
            self._folder(staging).mkdir(parents=True)
        return staging

    def sign_part(self, staging: Staging, number: int, expires: int) -> str | None:
        del expires
        staging.part_length(number)
        return None

    def put_part(self, staging: Staging, number: int, chunks: Iterable[bytes]) -> None:
        staging.part_length(number)
        self._require(staging)
        with start_file(self._root) as writer:
            for chunk in whole_part(staging, number, chunks):
                writer.write(chunk)
            with telling_unusable(self._root):
                try:
                    writer.put_at(self._part(staging, number))
                except FileNotFoundError as error:
                    raise staging_gone(staging) from error

    def parts(self, staging: Staging) -> dict[int, int]:
        with telling_unusable(self._root):
            try:
                sizes = {int(part.name): part.stat().st_size for part in self._folder(staging).iterdir()}
            except FileNotFoundError as error:
                raise staging_gone(staging) from error
        return dict(sorted(sizes.items()))

    def take_staging(self, staging: Staging, key: str) -> ObjectWriter:
        check_key(key)
        require_parts(staging, self.parts(staging))
        writer = start_file(self._root)
        try:
            for number in range(1, staging.part_count + 1):
                self._append(writer, staging, number)
        except BaseException:
            writer.close()
            raise
        return writer

    def made_other(self, staging: Staging, taken: ObjectWriter) -> bool:
        del staging, taken
        return False  # nobody stands between the parts and what was made of them

    def drop_staging(self, staging: Staging) -> None:
        with telling_unusable(self._root):
            _remove(self._folder(staging))

    def clear_staging(self, older_than: datetime) -> int:
        with telling_unusable(self._root):
            try:
                # A folder's mtime is that of the last part.
                found = [(folder, folder.stat().st_mtime) for folder in (self._root / STAGING).iterdir()]
            except FileNotFoundError:
                return 0
            old = [folder for folder, touched in found if datetime.fromtimestamp(touched, UTC) < older_than]
            for folder in old:
                _remove(folder)
        return len(old)

    def sign_get(self, key: str, expires: int, *, name: str | None) -> str | None:
        del expires, name
        check_key(key)
        return None

    def _folder(self, staging: Staging) -> Path:
        return self._root / staging.key

    def _part(self, staging: Staging, number: int) -> Path:
        return self._folder(staging) / str(number)

    def _require(self, staging: Staging) -> None:
        with telling_unusable(self._root):
            if not self._folder(staging).is_dir():
                raise staging_gone(staging)

    def _append(self, writer: FileWriter, staging: Staging, number: int) -> None:
        with telling_unusable(self._root):
            try:
                part = self._part(staging, number).open("rb", buffering=0)
            except FileNotFoundError as error:
                raise staging_gone(staging) from error
            with part:
                while chunk := part.read(_CHUNK):
                    writer.write(chunk)


def _remove(folder: Path) -> None:
    """Remove an upload; safe while another process removes it too, or adds one more part."""
    while folder.exists():
        for part in sorted(folder.glob("*")):
            part.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno not in _NOT_EMPTY:
                    raise


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
