"""Another user of this machine, who may not write what others own, nor look into what is closed to them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Go on as another user, where this process is root's, who may do everything; whoever else has rights to lose."""
    if os.geteuid() != 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, group)
    os.setresuid(_NOBODY, _NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(group, group, group)
        os.setgroups(groups)


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that every user can come to; those of pytest are closed to others."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    try:
        yield place
    finally:
        place.chmod(0o755)
        for folder, names, _ in os.walk(place):
            for name in names:
                Path(folder, name).chmod(0o755)
        shutil.rmtree(place)
