"""A service as it is searched for the parent of an adapter, by whoever has the folder that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from registry.files.hashed import HashedFile
from registry.operations.transfer import ClosableSource
from registry.progress import Progress
from registry.schemas.bundles import BlobEntry, Bundle
from registry.schemas.parents import NarrowRequest, PathsLeft


class Searched(Protocol):
    """What searching asks of a service."""

    def bases(self) -> Sequence[str]:
        """The names of all base models."""

    def bundle(self, ref: str) -> Bundle:
        """A path as digests."""

    def base_files(self, bundle: Bundle, progress: Progress) -> Mapping[str, HashedFile]:
        """The checked local weight files of its base, where this machine has them."""

    def narrow(self, request: NarrowRequest) -> PathsLeft:
        """The paths that sampled weights may be those of."""

    def open_blob(self, ref: str, blob: BlobEntry) -> ClosableSource:
        """Open a blob of a bundle."""
