"""The links above a new adapter, as checkpoints: read once by a process, since publishers share their parents."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache

from registry.digest import BlobRef
from registry.files.source import ByteSource
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.services.artifacts.bound import bind_link
from registry.services.lineage import Blobs, Link, LoadedPath
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.path.programs import BoundLink


def parent_links(blobs: Blobs, path: LoadedPath, opened: ExitStack) -> list[BoundLink]:
    """The live links of a path; ``opened`` closes what is opened here. Their weights are opened when they are read.

    Raises:
        InvalidAdapterError: a link is invalid by the rules of this version.
    """
    return [_bound(blobs, link, path, opened) for link in path.live]


def _bound(blobs: Blobs, link: Link, path: LoadedPath, opened: ExitStack) -> BoundLink:
    def read() -> Checkpoint:
        with ExitStack() as closed:
            return bind_link(blobs, link, path, closed).checkpoint

    config, weights = link.file(ADAPTER_CONFIG), link.file(ADAPTER_WEIGHTS)
    exact = "" if path.exact is None else path.exact.digest
    known = _Link((config.digest, weights.digest, path.base.table.digest, path.base.index.digest, exact), read)
    return BoundLink(_checkpoint(known), _OpenedLater(blobs, weights, opened))


@dataclass(frozen=True)
class _Link:
    """A cache key: all digests that a checkpoint depends on, and how to read it."""

    digests: tuple[str, ...]
    read: Callable[[], Checkpoint] = field(compare=False)


@lru_cache(maxsize=16)
def _checkpoint(link: _Link) -> Checkpoint:
    return link.read()


class _OpenedLater:
    """A blob that is opened when it is read first."""

    def __init__(self, blobs: Blobs, blob: BlobRef, opened: ExitStack) -> None:
        self._blobs, self._blob, self._opened = blobs, blob, opened
        self._source: ByteSource | None = None

    @property
    def size(self) -> int:
        return self._blob.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self._source is None:
            source = self._blobs.open_blob(self._blob)
            self._opened.callback(source.close)
            self._source = source
        self._source.read_into(offset, buffer)
