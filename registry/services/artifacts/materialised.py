"""Blobs of several bundles, opened once each and shared: to compare paths on a client's machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from registry.digest import BlobRef
from registry.files.hashed import HashedFile
from registry.files.source import FileSource
from registry.folders.local_files import telling_unreadable
from registry.operations.transfer import ClosableSource
from registry.schemas.transfer import BlobEntry, Bundle

OpenBlobOf = Callable[[str, BlobEntry], ClosableSource]


class KeptBlobs:
    """Opens base files of this machine where it has them, and all other blobs from the registry."""

    def __init__(self, bundles: Sequence[Bundle], open_blob: OpenBlobOf, base: Mapping[str, HashedFile]) -> None:
        self._open_blob = open_blob
        self._files = {hashed.digest: hashed for hashed in base.values()}
        self._entries = {entry.digest: (bundle.reference, entry) for bundle in bundles for entry in entries_of(bundle)}
        self._opened: dict[str, ClosableSource] = {}

    def take(self, bundle: Bundle, base: Mapping[str, HashedFile]) -> None:
        """Open the blobs of one more bundle, too."""
        self._files |= {hashed.digest: hashed for hashed in base.values()}
        self._entries |= {entry.digest: (bundle.reference, entry) for entry in entries_of(bundle)}

    def open_blob(self, blob: BlobRef) -> ClosableSource:
        """Open a blob; closing the returned source keeps the blob open for the next caller."""
        if blob.digest not in self._opened:
            self._opened[blob.digest] = self._open(blob.digest)
        return _Kept(self._opened[blob.digest])

    def _open(self, digest: str) -> ClosableSource:
        file = self._files.get(digest)
        if file is None:
            return self._open_blob(*self._entries[digest])
        with telling_unreadable(file.path):
            return FileSource(file.path)

    def close(self) -> None:
        """Close all blobs."""
        for source in self._opened.values():
            source.close()


class _Kept:
    """A source whose `close` does nothing: `KeptBlobs` closes it."""

    def __init__(self, source: ClosableSource) -> None:
        self._source = source

    @property
    def size(self) -> int:
        return self._source.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._source.read_into(offset, buffer)

    def close(self) -> None:
        """Do nothing."""


def entries_of(bundle: Bundle) -> Iterator[BlobEntry]:
    """Every blob of a bundle: of the base model, then of the links."""
    yield from bundle.base.files
    yield bundle.base.index
    yield bundle.base.table
    for link in bundle.links:
        yield from link.files
