"""Where a blob is: what the catalogue keeps of it, and what storing one answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BlobPlace:
    """A blob as the catalogue knows it: enough to find it, and to check every byte of it."""

    digest: str
    size: int
    blocks_digest: str
    key: str


@dataclass(frozen=True)
class StoredBlob:
    """A blob that is in the store, and how it came there.

    ``stored`` is how many bytes this call added: 0 when the blob was there, was linked, or shares its blocks.
    ``stored_by`` is ``none`` when this call made no object: the one under ``key`` is someone else's.
    """

    digest: str
    size: int
    blocks_digest: str
    key: str
    stored: int
    stored_by: Literal["copy", "reflink", "link", "none"]

    @property
    def place(self) -> BlobPlace:
        """What the catalogue keeps."""
        return BlobPlace(self.digest, self.size, self.blocks_digest, self.key)
