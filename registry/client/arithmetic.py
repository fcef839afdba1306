"""What a client does only where torch is installed: the composition root brings it, and this package knows its form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from registry.errors import UnavailableError
from registry.folders.hashed import HashedFile
from registry.folders.receipts import Receipt
from registry.folders.writing import Writable
from registry.schemas import Options, OutputFile
from registry.services.comparing import Comparison
from registry.services.transfer import ClosableSource
from registry.wire import BlobEntry, Bundle

OpenBlob = Callable[[BlobEntry], ClosableSource]


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

    def comparison(self, dtype: str) -> Comparison:
        """Compare two renderings of a tensor."""

    def tensor(self, data: bytearray, dtype: str, shape: tuple[int, ...]) -> Any:
        """Bytes of a file as a tensor."""


MakeArithmetic = Callable[[], Arithmetic]
"""Loads it: torch takes a second, and most of what a client does needs none of it."""


def needed(make: MakeArithmetic | None, what: str) -> Arithmetic:
    """The tensor core; ``what`` completes "torch is needed to ...".

    Raises:
        UnavailableError: ``missing_package``.
    """
    if make is None:
        raise UnavailableError(
            f"torch is needed to {what}, and it is not installed here: pip install torch.", code="missing_package"
        )
    return make()
