"""What a client does only where torch is installed: the composition root brings it, and this package knows its form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from registry.distribution import WHOLE, is_whole, need_whole
from registry.errors import UnavailableError
from registry.files.hashed import HashedFile
from registry.folders.writer import Writable
from registry.operations.transfer import ClosableSource
from registry.progress import Progress
from registry.schemas import FolderCompared, Options, OutputFile
from registry.schemas.bundles import BlobEntry, Bundle
from registry.schemas.receipt import Receipt
from registry.transfer.compare import Comparison
from registry.transfer.trained_on import TrainedFolder

OpenBlob = Callable[[BlobEntry], ClosableSource]
OpenBlobOf = Callable[[str, BlobEntry], ClosableSource]
"""The same of several bundles: by the reference of the one."""


class MergedHere(Writable, Protocol):
    """A merged model that is computed on this machine."""

    @property
    def rendering(self) -> str:
        """Names its bytes."""

    def receipt(self, files: tuple[OutputFile, ...], registry: str) -> Receipt:
        """What was computed, and what came out."""

    def check_base(self) -> None:
        """Make sure, after the last byte was made, that all were made of the base files that were checked.

        Raises:
            IntegrityError: ``wrong_base``: one was changed meanwhile.
            UnavailableError: one can't be read any more.
        """

    def close(self) -> None:
        """Release what it reads from."""


class Arithmetic(Protocol):
    """The tensor core of this machine."""

    def merge(
        self, bundle: Bundle, open_blob: OpenBlob, base: Mapping[str, HashedFile], options: Options
    ) -> MergedHere:
        """Merge a path on base weights of this machine: ``base`` has the checked file of each name."""

    def look_into(
        self,
        bundles: Sequence[Bundle],
        open_blob: OpenBlobOf,
        base: Mapping[str, HashedFile],
        folder: TrainedFolder,
        weights: Path,
        progress: Progress,
    ) -> FolderCompared:
        """Tell of which of some paths, or of what they stand on, the weights in a folder are.

        ``base`` has the base's weight files that are on this machine and were checked; others come by range.
        """

    def check_finite(self, weights: Path, progress: Progress) -> None:
        """Read an adapter's weights; raises `InvalidAdapterError` (``non_finite``)."""

    def comparison(self, dtype: str) -> Comparison:
        """Compare two renderings of a tensor."""

    def tensor(self, data: bytearray, dtype: str, shape: tuple[int, ...]) -> Any:
        """Bytes of a file as a tensor."""


MakeArithmetic = Callable[[], Arithmetic]
"""Loads it: torch takes a second, and most of what a client does needs none of it."""


def missing() -> str:
    """What to install where there is none."""
    return "torch" if is_whole() else WHOLE


def needed(make: MakeArithmetic | None, what: str) -> Arithmetic:
    """The tensor core; ``what`` completes "torch is needed to ...".

    Raises:
        UnavailableError: ``missing_package``, or ``client_only``.
    """
    if make is None:
        need_whole(what)
        raise UnavailableError(
            f"torch is needed to {what}, and it is not installed here: pip install torch.", code="missing_package"
        )
    return make()
