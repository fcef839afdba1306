"""Restricts a folder to its owner."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from registry.errors import NotAllowedError
from registry.folders.errors import reason

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def make_private(folder: Path, files: Iterable[Path]) -> None:
    """Remove all permissions of group and others from the folder and the given files.

    Raises:
        NotAllowedError: ``read_only``, another user owns it.
    """
    try:
        for place in (folder, *files):  # the folder first: it makes the rest of its content unreachable
            _close(place)
    except OSError as error:
        raise NotAllowedError(
            f"The folder {folder} can't be closed to other users ({reason(error)}), which a registry with tokens "
            "requires: run this as its owner.",
            code="read_only",
        ) from error


def _close(place: Path) -> None:
    try:
        mode = stat.S_IMODE(place.stat().st_mode)
        if mode & _OTHERS:
            place.chmod(mode & ~_OTHERS)
    except FileNotFoundError:  # SQLite removes its own temporary files
        return
