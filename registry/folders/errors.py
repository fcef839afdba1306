"""Maps `OSError` to errors of the registry: one sentence with the path and what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, TypeVar

from registry.errors import NotAllowedError, NotFoundError, RegistryError, UnavailableError

Place = TypeVar("Place")

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
FORBIDDEN: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


_NUMBERED: Final = re.compile(r"^\[Errno -?\d+\] ")
_IN_WORDS: Final[dict[str, str]] = {
    "Connection refused": "nothing answers at that port",
    "Name or service not known": "there is no host of that name",
    "Temporary failure in name resolution": "there is no host of that name, or no network",
    "No route to host": "there is no way to that host",
}
"""The system's words, and those that say what is the matter."""


def in_words(problem: BaseException) -> str:
    """What an error says, in one line, without its number, and of a connection what is the matter."""
    said = _NUMBERED.sub("", " ".join(str(problem).split())).rstrip(".") or type(problem).__name__
    return _IN_WORDS.get(said, said)


def reason(problem: OSError) -> str:
    """The system's message, without the path."""
    return problem.strerror or str(problem) or type(problem).__name__


def unwritable(place: Path, problem: OSError) -> RegistryError:
    """The error for a failed write at ``place``."""
    if problem.errno in FULL:
        return UnavailableError(
            f"There is no space left for {place}; free some space or choose another disk.", code="disk_full"
        )
    if problem.errno in FORBIDDEN:
        return NotAllowedError(f"{place} can't be written: {reason(problem)}; choose another folder.", code="read_only")
    return UnavailableError(f"{place} can't be used: {reason(problem)}.")


def unreadable(place: Path, problem: OSError) -> RegistryError:
    """The error for a failed read at ``place``, or at the path that the `OSError` names."""
    named = place if problem.filename is None else Path(os.fsdecode(problem.filename))
    return UnavailableError(f"{named} can't be read: {reason(problem)}; make it readable and run this again.")


def unreadable_file(file: Path, problem: OSError) -> RegistryError:
    """The error for a file named by the user that is missing or can't be read."""
    if isinstance(problem, FileNotFoundError):
        return NotFoundError(f"There is no file {file}: check the name, or whether something removed it.")
    if isinstance(problem, IsADirectoryError):
        return NotFoundError(f"{str(file)!r} is a folder, but a file is expected.", code="missing_file")
    return UnavailableError(f"The file {file} can't be read ({reason(problem)}): make it readable and run this again.")


def unusable(folder: Path, problem: OSError) -> RegistryError:
    """The error for the folder in which a registry stores its files."""
    why = reason(problem)
    if problem.errno in FULL:
        return UnavailableError(
            f"There is no space left for the registry's files in {folder} ({why}): free some space, "
            "or raise the quota, and run this again; nothing half-written is left.",
            code="disk_full",
        )
    if problem.errno == errno.EFBIG:
        return UnavailableError(
            f"A file is larger than what may be written in {folder} ({why}): raise the file size limit (ulimit -f), "
            "or use a file system without it, and run this again; nothing half-written is left.",
            code="disk_full",
        )
    if problem.errno in FORBIDDEN:
        return NotAllowedError(
            f"The folder {folder} can't be used ({why}): give this user permission to read and write in it, or use a "
            "registry in another folder.",
            code="read_only",
        )
    return UnavailableError(f"The folder {folder} can't be used ({why}): check its disk or mount, and run this again.")


class ErrorMapping(Generic[Place]):
    """Context manager: raises an `OSError` of the block as the error that ``error`` makes of the place and it."""

    __slots__ = ("_error", "_place")

    def __init__(self, error: Callable[[Place, OSError], RegistryError], place: Place) -> None:
        self._error = error
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(problem, OSError):
            raise self._error(self._place, problem) from problem


def telling_unwritable(place: Path) -> ErrorMapping[Path]:
    """Map any `OSError` of the block to `unwritable`."""
    return ErrorMapping(unwritable, place)


def telling_unreadable(place: Path) -> ErrorMapping[Path]:
    """Map any `OSError` of the block to `unreadable`."""
    return ErrorMapping(unreadable, place)


def telling_unusable(folder: Path) -> ErrorMapping[Path]:
    """Map any `OSError` of the block to `unusable`."""
    return ErrorMapping(unusable, folder)
