"""File names that are portable: what is added on one system can be fetched on any other.

A name that a folder can't hold, or that collides with another on a case-insensitive system, could be published but
never fetched as it was.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from registry.errors import RegistryError

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
