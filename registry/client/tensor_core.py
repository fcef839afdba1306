"""The interface of the tensor core, which a client has only with torch installed; the composition root passes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from registry.distribution import WHOLE, is_whole, need_whole
from registry.errors import UnavailableError
from registry.files.hashed import HashedFile
from registry.folders.writer import Writable
from registry.operations.methods.analysis import WeightChanges
from registry.operations.publication import FullModel
from registry.operations.registry import Registry
from registry.operations.transfer import ClosableSource
from registry.progress import Progress
from registry.schemas import Options, OutputFile
from registry.schemas.form import MeasuredRows
from registry.schemas.parents import Identified
from registry.schemas.publishing import ImportDocument
from registry.schemas.receipt import Receipt
from registry.schemas.transfer import BlobEntry, Bundle
from registry.transfer.fetched_folder import Comparison
from registry.transfer.publish_request import PublishFolder
from registry.transfer.publish_tree import BundleSource
from registry.transfer.source import MadeOfFull

OpenBlobOf = Callable[[str, BlobEntry], ClosableSource]
"""Opens a blob of a bundle, whose reference comes first."""


class MergedHere(Writable, Protocol):
    """A merged model computed on this machine."""

    @property
    def rendering(self) -> str:
        """Identifies its bytes."""

    def receipt(self, files: tuple[OutputFile, ...], registry: str) -> Receipt:
        """The receipt: what was computed, and the resulting files."""

    def measure(self) -> None:
        """Measure what was not made, because the folder had it."""

    def check_base(self) -> None:
        """Check, after the last byte was computed, that the base files are still those that were checked.

        Raises:
            IntegrityError: ``wrong_base``: one was changed meanwhile.
            UnavailableError: one can't be read any more.
        """

    def close(self) -> None:
        """Release its sources."""


class Arithmetic(Protocol):
    """The tensor core on this machine."""

    def changes(
        self, bundle: Bundle, ancestor: Bundle | None, open_blob: OpenBlobOf, base: Mapping[str, HashedFile]
    ) -> WeightChanges:
        """What links of a path changed after an ancestor; ``base`` has the checked local weight files of the base."""

    def merge(
        self,
        bundle: Bundle,
        open_blob: OpenBlobOf,
        base: Mapping[str, HashedFile],
        options: Options,
        measured: MeasuredRows = "sample",
    ) -> MergedHere:
        """Merge a path on local base weights: ``base`` has the checked file of each name; rows are ``measured``."""

    def compare(self, service: BundleSource, folder: PublishFolder, progress: Progress) -> PublishFolder:
        """See `registry.transfer.publish_tree.PublishTarget.compare`."""

    def identify(
        self, service: BundleSource, folder: Path, look_in: tuple[Path, ...], progress: Progress
    ) -> Identified:
        """Find which base model and revisions a folder is made of."""

    def write_full(
        self,
        parent: Bundle,
        open_blob: OpenBlobOf,
        base: Mapping[str, HashedFile],
        folder: Path,
        asked: FullModel,
        out: Path,
        progress: Progress,
    ) -> MadeOfFull:
        """Write what is published of a full model into an empty folder.

        ``base`` has the checked local weight files of the base; others are read by range.
        """

    def check_finite(self, weights: Path, progress: Progress) -> None:
        """Read an adapter's weights; raises `InvalidAdapterError` (``non_finite``)."""

    def from_pickle(self, pickle: Path, out: Path) -> None:
        """Write the tensors in a pickle as a new safetensors file; raises `InvalidAdapterError` (``pickle``)."""

    def comparison(self, dtype: str) -> Comparison:
        """Compare two renderings of a tensor."""

    def tensor(self, data: bytearray, dtype: str, shape: tuple[int, ...]) -> Any:
        """Bytes of a file as a tensor."""


MakeArithmetic = Callable[[], Arithmetic]
"""Loads the tensor core lazily: importing torch takes a second, and most commands of a client don't need it."""


Planner = Callable[[Registry, BundleSource, str, Progress], ImportDocument]
"""Plans an import of a folder of this machine into a registry; the composition root passes it, like the tensor core."""


def missing() -> str:
    """The package to install if the tensor core is missing."""
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
