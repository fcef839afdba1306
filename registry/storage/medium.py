"""What the operating system says about a folder, as errors of this package."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from registry.errors import NotAllowedError, RegistryError, UnavailableError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def medium_error(root: Path, error: OSError) -> RegistryError:
    """The sentence for an `OSError` met while working in the folder ``root``."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return UnavailableError(
            f"There is no space left for the registry's files in {root} ({reason}): free some space, "
            "or raise the quota, and run this again; nothing half-written is left.",
            code="disk_full",
        )
    if error.errno == errno.EFBIG:
        return UnavailableError(
            f"A file is larger than what may be written in {root} ({reason}): raise the file size limit (ulimit -f), "
            "or use a file system without it, and run this again; nothing half-written is left.",
            code="disk_full",
        )
    if error.errno in _FORBIDDEN:
        return NotAllowedError(
            f"The folder {root} can't be used as needed ({reason}): give this user the right to read and write in it, "
            "or use a registry in another folder.",
            code="read_only",
        )
    return UnavailableError(
        f"The folder {root} can't be used ({reason}): check its disk or mount, and run this again.", code="unavailable"
    )


@contextmanager
def medium(root: Path) -> Iterator[None]:
    """Turns an `OSError` of the block into the error that names ``root``."""
    try:
        yield
    except OSError as error:
        raise medium_error(root, error) from error
