"""Folders that appear under their name when they are complete, and not before.

A folder is filled beside its final place under a hidden name, with a lock held on it. A killed run leaves the folder
without its lock; the next run for the same place finds that and clears it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from registry.errors import ConflictError, NotAllowedError, RegistryError, UnavailableError

_MARK: Final = ".fetch-"


def filesystem_error(place: Path, problem: OSError) -> RegistryError:
    """The one sentence for what a file system refused."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError(
            f"There is no space left for {place}; free some or choose another disk.", code="disk_full"
        )
    if problem.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return NotAllowedError(
            f"{place} can't be written: {problem.strerror}; choose another folder.", code="read_only"
        )
    return UnavailableError(f"{place} can't be used: {problem.strerror or problem}.")


@contextmanager
def staged_folder(place: Path, *, leave: bool = False) -> Iterator[Path]:
    """A new folder beside ``place``, removed at leaving unless `put_in_place` moved it.

    ``leave``: what was interrupted is left as a killed run leaves it, for the next one to go on with; see `abandoned`.
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
        os.close(lock)


def abandoned(place: Path) -> list[Path]:
    """The folders that interrupted runs were filling for ``place``; the next `staged_folder` clears them."""
    found = []
    for folder in place.parent.glob(f".{_escaped(place.name[:100])}{_MARK}*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.append(folder)
        except BlockingIOError:
            pass  # its run is alive
        finally:
            os.close(lock)
    return found


def _locked_folder(place: Path) -> tuple[Path, int]:
    while True:
        staging = place.with_name(f".{place.name[:100]}{_MARK}{secrets.token_hex(6)}")
        staging.mkdir()
        lock = os.open(staging, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if staging.is_dir():
            return staging, lock
        os.close(lock)  # another run took it for litter before it was locked


def clear_litter(parent: Path, name: str = "*") -> None:
    """Remove what killed runs left in ``parent`` for the place ``name``, a glob pattern."""
    for litter in parent.glob(f".{name}{_MARK}*"):
        try:
            lock = os.open(litter, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(litter, ignore_errors=True)
        except BlockingIOError:
            pass  # its run is alive
        finally:
            os.close(lock)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def put_in_place(staging: Path, place: Path, *, replace: bool) -> None:
    """Give a complete folder its name: one rename, after everything in it is on the disk.

    Raises:
        ConflictError: ``folder_taken``, something came there meanwhile.
    """
    sync_folder(staging)
    if replace and place.exists():
        old = place.with_name(f".{place.name[:100]}{_MARK}{secrets.token_hex(6)}")
        place.rename(old)
        staging.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    else:
        try:
            staging.rename(place)  # replaces an empty folder, never a full one
        except OSError as problem:
            if problem.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise ConflictError(
                    f"{place} was filled by something else meanwhile; fetch into another folder.", code="folder_taken"
                ) from problem
            raise
    sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
