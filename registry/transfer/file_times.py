"""Whether a folder was written before an adapter that was trained on it, if the times of their files show it.

A folder that was written later may hold something else now, and proves nothing. But a time says when a file was
written, not when its content was made: what was copied or cloned without its times all stems from one moment, in an
order that means nothing. So two times prove an order only if they are more than a moment apart, and if that was no
copying either: files all around, each as soon after the one before as a disk writes. A folder that was fetched, and not
copied since, shows that itself. Needs no torch.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from registry.folders.scan import ADAPTER, ADAPTER_WEIGHTS, EXACT
from registry.schemas.parents import Times

MOMENT: Final = 60.0
"""Seconds that any training takes which starts from a folder: a library is loaded, then a model."""
_RATE: Final = 10e6
"""Bytes a second at which the slowest copy writes."""
_TOGETHER: Final = 3600.0
"""Seconds within which a heap is given its times, owners or place again."""
_LOOKED_AT: Final = 4096
"""The most files around that are examined."""
OF_ONE_MOMENT: Final[Times] = "unknown"
"""The times of files that were written in one go."""


@dataclass(frozen=True)
class Around:
    """The files around a folder and an adapter: of the heap that contains both."""

    root: Path | None  # None: they have nothing in common but the disk

    @classmethod
    def both(cls, folder: Path, adapter: Path) -> Around:
        """The folder that contains both a folder and an adapter's folder."""
        try:
            root = Path(os.path.commonpath([folder.resolve(), adapter.resolve()]))
        except ValueError:  # on two drives
            return cls(None)
        return cls(None if root in {Path(root.anchor), Path.home()} else root)

    @cached_property
    def written(self) -> tuple[tuple[float, int], ...]:
        """When each file was written, and its size; of very many those nearest to the root."""
        return () if self.root is None else tuple(sorted(_files_below(self.root)))

    def in_one_go(self, first: float, last: float) -> bool:
        """Whether from ``first`` to ``last`` somebody wrote one file after the other, as a copy does."""
        if last - first <= MOMENT:
            return True
        at = first
        for moment, size in self.written:
            if first < moment <= last:
                if moment - at > MOMENT + size / _RATE:
                    return False
                at = moment
        return at == last or last - at <= MOMENT

    @property
    def of_one_moment(self) -> bool:
        """Whether all files stem from one moment."""
        moments = [moment for moment, _ in self.written]
        return len(moments) > 1 and self.in_one_go(moments[0], moments[-1])


def times_of(
    written: Iterable[Path], adapter: Path, around: Around, *, fetched: bool = False, place: Path | None = None
) -> Times:
    """Whether files that an adapter was trained on are older or newer than it.

    Args:
        written: the weights that it was trained on, or their receipt.
        adapter: its own weights.
        around: both of them.
        fetched: the files have the times at which a registry wrote them.
        place: the folder that they are in, by the name that the adapter knows.
    """
    try:
        files = [file.stat() for file in written]
        turned, named = (0.0, 0.0) if place is None else _named(place, around.root)
        own = [_Saved.of(file) for file in _pair(adapter)]
    except OSError:
        return "unknown"
    if not files:
        return "unknown"
    last, saved = max(turned, *(one.st_mtime for one in files)), own[0].written
    if max(last, saved) > time.time() + MOMENT:  # by a clock that was wrong
        return "unknown"
    if not fetched and around.in_one_go(min(last, saved), max(last, saved)):
        return OF_ONE_MOMENT
    if last > saved:
        return "newer"
    return "older" if _is_sure(last, max(named, *(one.st_ctime for one in files)), own) else "unknown"


def _named(place: Path, root: Path | None) -> tuple[float, float]:
    """When a name came to mean the folder that it means: when it was linked to it, and when one was renamed last.

    Renaming a folder to the name of another leaves no trace in its files. If an entry is added to a folder or removed,
    both its times change; if the folder itself is renamed, only that of the change.
    """
    linked = place.lstat().st_mtime if place.is_symlink() else 0.0
    changed, itself = 0.0, place.resolve()
    for start in (place, itself):
        for one in (start, *start.parents):
            if one in {root, Path(one.anchor)}:
                break
            found = one.lstat()
            # of the folder itself also what came into it since: it may have got its name before
            if one == itself or one.is_symlink() or found.st_ctime > found.st_mtime:
                changed = max(changed, found.st_ctime)
    return linked, changed


def _is_sure(last: float, changed: float, own: Sequence[_Saved]) -> bool:
    """Whether files that were written last at ``last``, and put where they are at ``changed``, are older."""
    if last >= min(one.earliest for one in own):  # the adapter was touched, or saved once more since
        return False
    saved, moved = own[0].written, max(one.changed for one in own)
    # moved to this place later, with the times of another one: unless all of it was
    return changed <= saved + MOMENT or (moved > saved + MOMENT and abs(moved - changed) <= _TOGETHER)


def weights_in(folder: Path) -> list[Path]:
    """The weights in a folder that was trained on: of the model, if an adapter was saved into the same folder."""
    found = sorted(folder.glob("*.safetensors"))
    return [file for file in found if file.name != ADAPTER_WEIGHTS] or found


@dataclass(frozen=True)
class _Saved:
    """When a file of an adapter was saved, as far as the file system knows."""

    written: float
    changed: float
    earliest: float

    @classmethod
    def of(cls, file: Path) -> _Saved:
        found = file.stat()
        born = _born(file, found)
        return cls(found.st_mtime, found.st_ctime, found.st_mtime if born is None else min(born, found.st_mtime))


def _pair(weights: Path) -> Sequence[Path]:
    """An adapter's weights, and the configuration that is saved with them."""
    config = weights.with_name((EXACT if weights.name == EXACT.weights else ADAPTER).config)
    return [weights, config] if config.is_file() else [weights]


def _files_below(root: Path) -> Iterator[tuple[float, int]]:
    folders, left = deque([root]), _LOOKED_AT
    while folders and left > 0:
        try:
            with os.scandir(folders.popleft()) as entries:
                for entry in entries:
                    left -= 1
                    if entry.is_symlink():
                        continue
                    if entry.is_dir():
                        folders.append(Path(entry.path))
                    elif entry.is_file():
                        found = entry.stat()
                        yield found.st_mtime, found.st_size
        except OSError:  # of somebody else
            continue


def _born(file: Path, found: os.stat_result) -> float | None:
    """When a file was made that may have been written to since; None: this system does not report it.

    Python asks only on other systems than Linux.
    """
    if not sys.platform.startswith("linux"):
        return getattr(found, "st_birthtime", None)
    room = ctypes.create_string_buffer(256)
    ask = getattr(ctypes.CDLL(None), "statx", None)
    if ask is None or ask(_HERE, os.fsencode(file), 0, _BORN, room) != 0:
        return None
    if not int.from_bytes(room.raw[0:4], sys.byteorder) & _BORN:
        return None
    seconds, nanoseconds = (int.from_bytes(room.raw[at:stop], sys.byteorder) for at, stop in ((80, 88), (88, 92)))
    return seconds + nanoseconds / 1e9


_HERE: Final = -100
_BORN: Final = 0x800
