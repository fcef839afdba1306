"""A folder for its owner alone: what is in it can be read, changed or listed by nobody else."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from registry.errors import NotAllowedError
from registry.folders.errors import reason

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def make_private(folder: Path, files: Iterable[Path]) -> None:
    """Take every right of others away, from the folder and from those of its files that are named.

    Raises:
        NotAllowedError: ``read_only``, it belongs to somebody else.
    """
    try:
        for place in (folder, *files):  # the folder first: what else is in it is out of reach then
            _close(place)
    except OSError as error:
        raise NotAllowedError(
            f"The folder {folder} can't be closed to other users ({reason(error)}), and a registry with tokens has to "
            "be: let its owner do this.",
            code="read_only",
        ) from error


def _close(place: Path) -> None:
    try:
        mode = stat.S_IMODE(place.stat().st_mode)
        if mode & _OTHERS:
            place.chmod(mode & ~_OTHERS)
    except FileNotFoundError:  # SQLite removes files of its own
        return
