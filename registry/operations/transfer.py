"""What registries say to each other: bytes by digest, and what is published with them.

Publishing over HTTP, copying between registries and merging on the client's machine are made of these. The bytes of a
blob are uploaded under an id, in parts, resumable; a commit reads them back, hashes them and only then publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar

from registry.errors import UnavailableError
from registry.files.source import ByteSource
from registry.progress import SILENT, Progress
from registry.schemas import BaseAdded, Published
from registry.schemas.transfer import (
    BaseCommit,
    BasePlan,
    BaseRequest,
    BlobEntry,
    Bundle,
    PublishCommit,
    PublishPlan,
    PublishRequest,
)

T = TypeVar("T")
_SENDINGS: Final = 3


def sent_and_committed(send: Callable[[], Mapping[str, str]], commit: Callable[[Mapping[str, str]], T]) -> T:
    """Commit what was sent. What the store of the other side has lost of it meanwhile is sent again, a few times.

    Args:
        send: sends what is missing, going on with earlier tries; the id of each upload, by digest.
        commit: publishes what was sent.
    """
    for left in reversed(range(_SENDINGS)):
        try:
            return commit(send())
        except UnavailableError as error:
            if error.code != "upload_incomplete" or not left:
                raise
    raise AssertionError("the last try answers or raises")


class ClosableSource(ByteSource, Protocol):
    """Bytes by range, released when they are not needed any more."""

    def close(self) -> None:
        """Release them."""


class Transfer(Protocol):
    """A registry as another registry's partner."""

    @property
    def url(self) -> str:
        """Where this registry is."""

    def bundle(self, ref: str) -> Bundle:
        """A path as digests, with all that composing or copying it needs."""

    def subtree(self, path: str) -> tuple[str, ...]:
        """References of all revisions at and under a path, parents first."""

    def open_blob(self, ref: str, blob: BlobEntry) -> ClosableSource:
        """Open a blob of a bundle; ``ref`` is the bundle's reference. What is read is checked against the digests."""

    def plan_publish(self, request: PublishRequest) -> PublishPlan:
        """Check everything but the weights, and tell which bytes are missing."""

    def plan_base(self, request: BaseRequest) -> BasePlan:
        """Check everything but the weights, and tell which bytes are missing."""

    def upload(self, digest: str, source: ByteSource, *, progress: Progress = SILENT) -> str:
        """Upload the bytes of a digest, going on with an earlier try; answers with the upload's id."""

    def commit_publish(self, commit: PublishCommit, *, progress: Progress = SILENT) -> Published:
        """Publish an adapter whose bytes are stored or uploaded."""

    def commit_base(self, commit: BaseCommit, *, progress: Progress = SILENT) -> BaseAdded:
        """Add a base model whose bytes are stored or uploaded."""
