"""Staging folders: a folder gets its final name only when it is complete.

It is filled beside its final place under a hidden name, with a lock on it. A killed run leaves the folder without its
lock; the next run for the same place finds that and clears it. So it is with temporary folders, too.

Exchanging the names of two folders in one step, where the system can.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from registry.errors import ConflictError, UnavailableError
from registry.files.opened import FolderLock, lock_folder, sync_folder
from registry.folders.leases import free

_HERE: Final = -100  # AT_FDCWD: names are as for this process
_EXCHANGE: Final = 2  # RENAME_EXCHANGE
_CANT: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


def exchange(one: Path, other: Path) -> bool:
    """Give each of two folders the other's name, so that both names are there at any time.

    False where that can't be done in one step: not on Linux, and on file systems such as NFS.

    Raises:
        OSError: one of them is not there, or may not be renamed.
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
    """A new folder beside ``place``, removed on exit unless `put_in_place` moved it.

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
        ConflictError: ``folder_taken``, something was created there meanwhile.
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
