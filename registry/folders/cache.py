"""The cache of ``fetch`` without an output folder: one folder per rendering, with a limit on the total size.

Anything else in the cache directory belongs to the user: only folders with a name of the cache's form and a receipt are
removed. A folder that can't be removed, such as another user's, does not make a fetch fail.
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
"""Names of the cache's folders, as a glob pattern."""


@dataclass(frozen=True)
class FetchCache:
    """Fetched folders by rendering, evicted least recently used first."""

    folder: Path
    limit: int = DEFAULT_LIMIT

    def place(self, rendering: str) -> Path:
        """The folder of a rendering, whether or not it exists yet."""
        return self.folder / hex_of(rendering)

    def used(self, place: Path) -> None:
        """Update the time of last use; impossible for another user's folder, which may be evicted a little earlier."""
        with suppress(OSError):
            os.utime(place / RECEIPT)

    def shrink(self, *, keep: Path) -> None:
        """Evict least recently used folders until the rest fits the limit; ``keep`` and locked folders stay.

        First removes what killed runs left half written or half removed.
        """
        clear_litter(self.folder, _NAMES)
        folders = self._used()
        sizes = {folder: _size(folder) for folder in folders}
        total = sum(sizes.values())
        for folder in sorted(folders.keys() - {keep}, key=lambda folder: (folders[folder], folder)):
            if total <= self.limit:
                return
            with free(folder) as may_go:  # not free: a process reads from it, such as an inference server
                if may_go:
                    with suppress(OSError):
                        take_away(folder)
            if not folder.exists():
                total -= sizes[folder]

    def _used(self) -> dict[Path, float]:
        """The time of last use of each folder."""
        used = {}
        for folder in self.folder.glob(_NAMES):
            with suppress(OSError):  # no receipt: not a folder of the cache, or it is being removed
                used[folder] = (folder / RECEIPT).stat().st_mtime
        return used


def _size(folder: Path) -> int:
    """Total bytes of all files; files that another process removes meanwhile are not counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(place, name).stat().st_size
    return total
