"""When files were written and put where they are, as a test says: a file's change time can't be set, only shown.

A file without a word of its own was changed when it was written, as if its folder had never been copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOUR, DAY = 3600.0, 86400.0


class Clock:
    """Sets times of files, and shows change times to whoever asks by `Path.stat` or `Path.lstat`."""

    def __init__(self) -> None:
        self.changed: dict[str, float] = {}  # by the place of a file or folder: when it was put there

    def stamp(self, place: Path, written: float, changed: float | None = None) -> Path:
        """Say when a folder and all in it were written, and when they were put there; the same moment unless given."""
        for one in (place, *sorted(place.rglob("*"))) if place.is_dir() and not place.is_symlink() else (place,):
            os.utime(one, (written, written), follow_symlinks=False)
            self.changed[str(one)] = written if changed is None else changed
        return place

    @contextmanager
    def shown(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        """Show them within."""
        real = Path.stat

        def stat(place: Path, *, follow_symlinks: bool = True) -> os.stat_result:
            found = real(place, follow_symlinks=follow_symlinks)
            where = os.path.realpath(place) if follow_symlinks else str(place)
            changed = self.changed.get(where)
            if changed is None:
                return found
            named = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
            return os.stat_result(tuple(found), named | {"st_ctime": changed, "st_ctime_ns": int(changed * 1e9)})

        with patch.context() as within:
            within.setattr(Path, "stat", stat)
            yield
