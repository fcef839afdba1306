"""Folders that get their final name only when they are complete, and the cache of fetched ones.

A folder is filled next to its final place under a hidden name, with a lock on it. A killed run leaves the folder
unlocked; the next run for the same place finds it and clears it. The same holds for temporary folders.

The cache of ``fetch`` has one folder per rendering, and a limit on the total size. Anything else in its directory
belongs to the user: only folders with a name of the cache's form and a receipt are removed, and none that a process
holds a lease on, which is a shared lock that ends with its process. A folder that can't be removed, such as another
user's, does not make a fetch fail.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.digest import hex_of
from registry.errors import ConflictError, UnavailableError
from registry.files.opened import FolderLock, lock_folder, sync_folder
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


_HERE: Final = -100  # AT_FDCWD: names are as for this process
_EXCHANGE: Final = 2  # RENAME_EXCHANGE
_CANT: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


def exchange(one: Path, other: Path) -> bool:
    """Give each of two folders the other's name, so that both names exist at any time.

    False where that can't be done in one step: not on Linux, and on file systems such as NFS.

    Raises:
        OSError: one of them does not exist, or may not be renamed.
    """
    if not sys.platform.startswith("linux"):
        return False
    rename: Any = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    failed = ctypes.get_errno()
    if failed in _CANT:
        return False
    raise OSError(failed, os.strerror(failed), str(other))


HEX_DIGIT: Final = "[0-9a-f]"  # as a glob pattern
_MARK: Final = ".fetch-"
_NUMBER: Final = 6  # random bytes in the name, distinguishing runs for one place


@contextmanager
def staged_folder(place: Path, *, leave: bool = False) -> Iterator[Path]:
    """A new folder next to ``place``, removed on exit unless `put_in_place` moved it.

    ``leave``: after an interruption the folder stays as if the run was killed, for the next one to resume; see
    `abandoned`.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    clear_litter(place.parent, _escaped(place.name[:100]))
    staging, lock = _locked_folder(place)
    left = False
    try:
        yield staging
    except (UnavailableError, KeyboardInterrupt) as problem:
        left = leave and getattr(problem, "code", "") != "disk_full"
        raise
    finally:
        if not left:
            shutil.rmtree(staging, ignore_errors=True)
        lock.close()


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """An empty folder among temporary files, closed to other users and removed on exit.

    Those of killed runs, given by the same ``name``, are removed before it is made.
    """
    with staged_folder(Path(tempfile.gettempdir()) / name) as staging:
        place = staging / "made"
        place.mkdir(mode=0o700)
        yield place


def abandoned(place: Path) -> list[Path]:
    """Folders that interrupted runs were filling for ``place``; the next `staged_folder` clears them."""
    found = []
    for folder in place.parent.glob(_litter(_escaped(place.name[:100]))):
        with free(folder) as is_free:  # else its run is alive, or it is gone or another user's
            if is_free:
                found.append(folder)
    return found


def _locked_folder(place: Path) -> tuple[Path, FolderLock]:
    """A new hidden folder and its lock: another run may clear it at any moment until it is locked."""
    while True:
        staging = _hidden(place)
        staging.mkdir()
        try:
            lock = lock_folder(staging)
        except FileNotFoundError:
            continue
        if staging.is_dir():
            return staging, lock
        lock.close()


def _hidden(place: Path) -> Path:
    return place.with_name(f".{place.name[:100]}{_MARK}{secrets.token_hex(_NUMBER)}")


def take_away(place: Path) -> None:
    """Remove a folder by renaming it first, so that it vanishes atomically; leftovers of an interruption are litter.

    Raises:
        OSError: the folder stays unchanged, such as another user's.
    """
    if not os.access(place, os.W_OK):  # the rename alone would be allowed
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
    shutil.rmtree(place.rename(_hidden(place)), ignore_errors=True)


def clear_litter(parent: Path, name: str) -> None:
    """Remove what killed runs left in ``parent`` for the places that match ``name``, a glob pattern."""
    for litter in parent.glob(_litter(name)):
        with free(litter) as is_free:  # else its run is alive, or it is gone or another user's
            if is_free:
                shutil.rmtree(litter, ignore_errors=True)


def _litter(name: str) -> str:
    """The glob pattern of hidden folders for the places ``name``, a glob pattern; nothing else is ever cleared."""
    return f".{name}{_MARK}{HEX_DIGIT * (2 * _NUMBER)}"


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def put_in_place(staging: Path, place: Path, *, replace: bool) -> None:
    """Give a complete folder its name by one rename, after everything in it is synced to disk.

    A folder that is replaced is exchanged with it, so that a kill never leaves the name without one; where that can't
    be done in one step, it does so for the moment between two.

    Raises:
        ConflictError: ``folder_taken``, something was created in its place meanwhile.
    """
    sync_folder(staging)
    if replace and place.exists():
        if exchange(staging, place):
            old = staging
        else:
            old = place.rename(_hidden(place))
            staging.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    else:
        try:
            _rename(staging, place)
        except OSError as problem:
            if problem.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise ConflictError(
                    f"{place} was filled by another process in the meantime; fetch into another folder.",
                    code="folder_taken",
                ) from problem
            raise
    sync_folder(place.parent)


def _rename(staging: Path, place: Path) -> None:
    """Rename a folder to a name that nothing has but, maybe, an empty folder; raises OSError."""
    try:
        staging.rename(place)
    except FileExistsError:  # Windows replaces no folder
        place.rmdir()
        staging.rename(place)


DEFAULT_LIMIT: Final = 20 << 30
_NAMES: Final = HEX_DIGIT * 64
"""Names of the cache's folders, as a glob pattern."""


@dataclass(frozen=True)
class FetchCache:
    """Fetched folders by rendering, evicted least recently used first."""

    folder: Path
    limit: int = DEFAULT_LIMIT

    def place(self, rendering: str) -> Path:
        """The folder of a rendering, whether or not it exists yet."""
        return self.folder / hex_of(rendering)

    def used(self, place: Path) -> None:
        """Update the time of last use; impossible for another user's folder, which may be evicted a little earlier."""
        with suppress(OSError):
            os.utime(place / RECEIPT)

    def shrink(self, *, keep: Path) -> None:
        """Evict least recently used folders until the rest fits the limit; ``keep`` and locked folders stay.

        First removes what killed runs left half written or half removed.
        """
        clear_litter(self.folder, _NAMES)
        folders = self._used()
        sizes = {folder: _size(folder) for folder in folders}
        total = sum(sizes.values())
        for folder in sorted(folders.keys() - {keep}, key=lambda folder: (folders[folder], folder)):
            if total <= self.limit:
                return
            with free(folder) as may_go:  # not free: a process reads from it, such as an inference server
                if may_go:
                    with suppress(OSError):
                        take_away(folder)
            if not folder.exists():
                total -= sizes[folder]

    def _used(self) -> dict[Path, float]:
        """The time of last use of each folder."""
        used = {}
        for folder in self.folder.glob(_NAMES):
            with suppress(OSError):  # no receipt: not a folder of the cache, or it is being removed
                used[folder] = (folder / RECEIPT).stat().st_mtime
        return used


def _size(folder: Path) -> int:
    """Total bytes of all files; files that another process removes meanwhile are not counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(place, name).stat().st_size
    return total
