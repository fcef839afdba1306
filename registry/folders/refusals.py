"""What a file system refuses, as the user's error: one sentence with the place and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import NotAllowedError, RegistryError, UnavailableError


def unwritable(place: Path, problem: OSError) -> RegistryError:
    """The error for what can't be written at ``place``."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError(
            f"There is no space left for {place}; free some or choose another disk.", code="disk_full"
        )
    if problem.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return NotAllowedError(
            f"{place} can't be written: {problem.strerror}; choose another folder.", code="read_only"
        )
    return UnavailableError(f"{place} can't be used: {problem.strerror or problem}.")


def unreadable(place: Path, problem: OSError) -> RegistryError:
    """The error for what can't be read at ``place``, or at the place that the system names."""
    named = place if problem.filename is None else Path(os.fsdecode(problem.filename))
    return UnavailableError(
        f"{named} can't be read: {problem.strerror or problem}; make it readable and run this again."
    )


@contextmanager
def telling_unwritable(place: Path) -> Iterator[None]:
    """Raise `unwritable` for what the system refuses within."""
    try:
        yield
    except OSError as problem:
        raise unwritable(place, problem) from problem


@contextmanager
def telling_unreadable(place: Path) -> Iterator[None]:
    """Raise `unreadable` for what the system refuses within."""
    try:
        yield
    except OSError as problem:
        raise unreadable(place, problem) from problem
