"""The folders that ``fetch`` fills when no output folder is given: one a rendering, bounded in size together.

Whatever else the cache's folder holds is somebody's: only folders with a name that the cache gives and a receipt are
ever removed. What can't be removed, such as what another user fetched, makes no fetch fail.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.digest import hex_of
from registry.folders.leases import free
from registry.folders.scan import RECEIPT
from registry.folders.staging import HEX_DIGIT, clear_litter, take_away

DEFAULT_LIMIT: Final = 20 << 30
_NAMES: Final = HEX_DIGIT * 64
"""What the cache calls its folders, as a glob pattern."""


@dataclass(frozen=True)
class FetchCache:
    """Fetched folders by rendering; the least recently used go first."""

    folder: Path
    limit: int = DEFAULT_LIMIT

    def place(self, rendering: str) -> Path:
        """Where a rendering lies, or will."""
        return self.folder / hex_of(rendering)

    def used(self, place: Path) -> None:
        """Note that a folder was handed out just now; where another user owns it, it may go a little earlier."""
        with suppress(OSError):
            os.utime(place / RECEIPT)

    def shrink(self, *, keep: Path) -> None:
        """Remove the folders that were used longest ago until the rest fits; ``keep`` and what is held stay.

        What killed runs left, half written or half removed, goes first.
        """
        clear_litter(self.folder, _NAMES)
        folders = self._used()
        sizes = {folder: _size(folder) for folder in folders}
        total = sum(sizes.values())
        for folder in sorted(folders.keys() - {keep}, key=lambda folder: (folders[folder], folder)):
            if total <= self.limit:
                return
            with free(folder) as may_go:  # else a program reads from it, such as an inference server
                if may_go:
                    with suppress(OSError):
                        take_away(folder)
            if not folder.exists():
                total -= sizes[folder]

    def _used(self) -> dict[Path, float]:
        """When each folder was used last."""
        used = {}
        for folder in self.folder.glob(_NAMES):
            with suppress(OSError):  # no receipt: not a folder of the cache, or it goes just now
                used[folder] = (folder / RECEIPT).stat().st_mtime
        return used


def _size(folder: Path) -> int:
    """Bytes of all files; of what another process removes meanwhile, those that are there still."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(place, name).stat().st_size
    return total
