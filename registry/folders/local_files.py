"""Files of this machine: portable names, reading and hashing, and each `OSError` as one sentence with what to do.

A name that a folder can't hold, or that collides with another on a case-insensitive system, could be published but
never fetched as it was.
"""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, TypeVar

from registry.errors import NotAllowedError, NotFoundError, RegistryError, UnavailableError
from registry.files.hashed import HashedFile, hash_file
from registry.files.header import MAX_HEADER
from registry.progress import Progress

MAX_NAME: Final = 512  # characters of the whole path
MAX_COMPONENT: Final = 255  # bytes: the limit of file systems for one component
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\\:*?"<>|]')
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE)
_SHOWN: Final = 80


def check_name(name: str, error: type[RegistryError]) -> str:
    """Return a ``/``-separated file name if a folder can hold it.

    Raises:
        error: ``bad_config``, with the violated rule.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise error(f"File name {_shown(name)} is not valid UTF-8; rename the file.", code="bad_config") from None
    if _FORBIDDEN.search(name) or len(name) > MAX_NAME:
        raise error(
            f"File name {_shown(name)} can't be stored: at most {MAX_NAME} characters and none of "
            '\\ : * ? " < > | are expected.',
            code="bad_config",
        )
    for part in name.split("/"):
        rule = _broken(part)
        if rule is not None:
            raise error(f"File name {_shown(name)} can't be stored: {rule}; rename it.", code="bad_config")
    return name


def _broken(part: str) -> str | None:
    """The rule that a path component violates."""
    if len(part.encode("utf-8")) > MAX_COMPONENT:
        return f"{_shown(part)} has more than {MAX_COMPONENT} bytes, which file systems don't support"
    if part.endswith((".", " ")):
        return f"{_shown(part)} ends with a dot or a blank, which some systems cut off"
    if _DEVICE.fullmatch(part):
        return f"{_shown(part)} is the name of a device on some systems"
    return None


def check_together(names: Iterable[str], error: type[RegistryError]) -> None:
    """Check that one folder can hold all of these files on every system.

    Raises:
        error: ``bad_config``, naming two that collide: a file where another one needs a folder, or names that differ
            only in case or Unicode composition.
    """
    files: dict[str, str] = {}
    folders: dict[str, tuple[str, str]] = {}  # as first spelt, and a file in it
    for name in sorted(names):
        parts = name.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            before, inside = folders.setdefault(_folded(folder), (folder, name))
            if before != folder:
                raise _same(inside, name, error)
        other = files.setdefault(_folded(name), name)
        if other != name:
            raise _same(other, name, error)
    for key in sorted(files.keys() & folders.keys()):
        raise error(
            f"Files {_shown(files[key])} and {_shown(folders[key][1])} can't be in one folder: the first is a file, "
            "but the second needs a folder of that name; rename one of them.",
            code="bad_config",
        )


def is_taken(name: str, reserved: str) -> bool:
    """Whether the names are the same on a case-insensitive system."""
    return _folded(name) == _folded(reserved)


def _same(first: str, second: str, error: type[RegistryError]) -> RegistryError:
    return error(
        f"Files {_shown(first)} and {_shown(second)} can't be in one folder on every system: their names differ only "
        "in upper and lower case, or in how letters are composed; rename one of them.",
        code="bad_config",
    )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")


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
"""The system's words, and those that name the cause."""


def in_words(problem: BaseException) -> str:
    """The message of an error, in one line, without its number; for a connection, the cause."""
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


_LENGTH: Final = 8


def read_start(file: Path, length: int) -> bytes:
    """The first ``length`` bytes of a file, or all if it is shorter; raises `NotFoundError`, `UnavailableError`."""
    with ErrorMapping(unreadable_file, file), file.open("rb") as stream:
        return stream.read(length)


def head_of(file: Path) -> bytes:
    """The length field and header of a safetensors file, as far as present; not validated here.

    Only the length field if the header is longer than allowed. Raises `NotFoundError`, `UnavailableError`.
    """
    with ErrorMapping(unreadable_file, file), file.open("rb") as stream:
        start = stream.read(_LENGTH)
        length = int.from_bytes(start, "little")
        return start + stream.read(length if length <= MAX_HEADER else 0)


def hash_found(file: Path, progress: Progress) -> HashedFile:
    """Hash a file; raises `NotFoundError`, `UnavailableError`."""
    with ErrorMapping(unreadable_file, file):
        return hash_file(file, progress)
