"""Exchanging the names of two folders in one step, where the system can."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Any, Final

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
