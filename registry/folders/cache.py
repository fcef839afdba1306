"""The folders that ``fetch`` fills when no output folder is given: one a rendering, bounded in size together."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.digest import hex_of
from registry.folders.holding import free
from registry.folders.scan import RECEIPT
from registry.folders.staging import clear_litter

DEFAULT_LIMIT: Final = 20 << 30


@dataclass(frozen=True)
class FetchCache:
    """Fetched folders by rendering; the least recently used go first."""

    folder: Path
    limit: int = DEFAULT_LIMIT

    def place(self, rendering: str) -> Path:
        """Where a rendering lies, or will."""
        return self.folder / hex_of(rendering)

    def used(self, place: Path) -> None:
        """Note that a folder was handed out just now."""
        os.utime(place / RECEIPT, (time.time(), time.time()))

    def shrink(self, *, keep: Path) -> None:
        """Remove the folders that were used longest ago until the rest fits; ``keep`` and what is held stay.

        What killed runs left, half written or half removed, goes first.
        """
        clear_litter(self.folder)
        for entry in self.folder.iterdir():
            if not entry.name.startswith(".") and not (entry / RECEIPT).is_file():
                shutil.rmtree(entry, ignore_errors=True)
        folders = sorted(
            (entry for entry in self.folder.iterdir() if (entry / RECEIPT).is_file() and entry != keep),
            key=lambda entry: (entry / RECEIPT).stat().st_mtime,
        )
        sizes = {entry: _size(entry) for entry in folders}
        total = sum(sizes.values()) + _size(keep)
        for entry in folders:
            if total <= self.limit:
                return
            with free(entry) as may_go:
                if not may_go:
                    continue  # a program reads from it, such as an inference server
                (entry / RECEIPT).unlink()  # without it the folder does not pass for a complete one while it goes
                shutil.rmtree(entry, ignore_errors=True)
            total -= sizes[entry]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
