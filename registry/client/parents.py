"""Compares the folder that an adapter was trained on with the candidates for its parent, on this machine.

The service trusts the client's result, since it has never seen the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from registry.client.calls import do, listed
from registry.client.fetch import BaseFolders
from registry.client.ranges import RangeReader, open_blob
from registry.client.tensor_core import MakeArithmetic, needed
from registry.client.transport import Transport
from registry.digest import hex_of
from registry.errors import ConflictError, RetractedError, UsageError
from registry.files.hashed import HashedFile
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.operations.publication import Publication
from registry.operations.table import BASES, LOG, NARROW
from registry.operations.transfer import ClosableSource
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.reference import Reference, meant_alone
from registry.schemas import FolderCompared
from registry.schemas.parents import NarrowRequest, PathsLeft
from registry.schemas.requests import BasesRequest, PathRequest
from registry.schemas.transfer import BlobEntry, Bundle
from registry.transfer.publish_request import PublishFolder
from registry.transfer.trained_on import Beside, TrainedFolder, receipt_of_parent


class ParentFolders:
    """What a client needs to compare folders."""

    def __init__(self, transport: Transport, arithmetic: MakeArithmetic | None, room: Path) -> None:
        self._transport = transport
        self._arithmetic = arithmetic
        self._room = room

    def compared(self, folder: PublishFolder, progress: Progress) -> PublishFolder:
        """The request with the result of comparing the folder, if there is one."""
        trained_on = folder.trained_on
        if trained_on is None or TreePath.parse(folder.request.path).parent is None:
            return folder
        if self._arithmetic is None and not folder.request.find_parent:
            reason = "torch is needed for that, and it is not installed here"
            return folder.with_request(compared=FolderCompared(words=trained_on.words, reason=reason))
        return needed(self._arithmetic, "search for a parent").compare(self, folder, progress)

    def searched(self, trained_on: TrainedFolder, beside: Beside, progress: Progress) -> FolderCompared:
        """Find the revisions, among all, whose merged weights a folder has, or which are nearest."""
        return needed(self._arithmetic, "search for a parent").search(self, trained_on, beside, progress)

    def bases(self) -> Sequence[str]:
        """The names of all base models."""
        return [base.name for base in listed(self._transport, BASES, BasesRequest(), None)]

    def bundle(self, ref: str) -> Bundle:
        """A path as digests."""
        return self._transport.get("/bundles", Bundle, slow=True, ref=ref)

    def revisions(self, above: TreePath) -> list[Bundle]:
        """The base model, and every revision of an adapter that is not retracted."""
        bundles = [self.bundle(above.base)]
        if above.is_base:
            return bundles
        for revision in listed(self._transport, LOG, PathRequest(path=str(above)), None):
            if revision.retracted is None:
                try:
                    bundles.append(self.bundle(revision.reference))
                except RetractedError:  # since the listing
                    continue
        return bundles

    def base_files(self, bundle: Bundle, progress: Progress) -> Mapping[str, HashedFile]:
        """The checked local weight files of its base, where this machine has them."""
        remembered = BaseFolders(self._room).find(bundle.base, progress)
        return {} if remembered is None else remembered[1]

    def narrow(self, request: NarrowRequest) -> PathsLeft:
        """The paths that sampled weights may be those of."""
        return do(self._transport, NARROW, request, SILENT)

    def open_blob(self, ref: str, blob: BlobEntry) -> ClosableSource:
        """Open a blob of a bundle."""
        return self._open(ref, blob)

    def parent_of_full(self, publication: Publication) -> Bundle:
        """The path to the parent of a full model; the service finds it again when the adapter is published.

        Raises:
            NotFoundError, RetractedError: there is no such revision, or it can't be read.
            UsageError: ``parent_ambiguous``, the parent has several revisions and none is given.
            ConflictError: ``parent_mismatch``, what is given is none of the parent that the path says.
        """
        above = publication.path.parent
        if above is None:
            raise UsageError(
                f"{publication.path} is a base model: the path of an adapter is expected, such as "
                f"{publication.path}/NAME."
            )
        given = receipt_of_parent(publication.receipt, None)
        if publication.parent is not None:
            return self._bundle_at(publication.parent, above, f"--parent {publication.parent}")
        if given is not None and given.receipt.tip is not None:
            path = Reference.parse(given.receipt.reference).path
            return self._bundle_at(f"{path}@{given.receipt.tip}", above, given.words)
        if above.is_base:
            return self.bundle(str(above))
        listing = listed(self._transport, LOG, PathRequest(path=str(above)), None)
        found = [one.reference for one in listing if one.retracted is None]
        if len(found) > 1:
            more = ", ..." if len(found) > 4 else ""
            raise UsageError(
                f"{above} has several revisions ({', '.join(found[:4])}{more}) and nothing shows which one this model "
                "was trained from; give --parent REF, or --receipt FILE of the folder it was trained from.",
                code="parent_ambiguous",
            )
        return self.bundle(found[0] if found else str(above))

    def _bundle_at(self, ref: str, above: TreePath, what: str) -> Bundle:
        bundle = self.bundle(ref)
        if Reference.parse(bundle.reference).path != above:
            raise ConflictError(
                f"{what} is not a revision of {above}, the parent given by the path{meant_alone(ref, above)}.",
                code="parent_mismatch",
            )
        return bundle

    def _open(self, ref: str, blob: BlobEntry) -> ClosableSource:
        if not blob.path.endswith(".safetensors") or blob.path == ADAPTER_WEIGHTS:
            return open_blob(self._transport, ref, blob, self._room)
        # Base weights are large, and some rows of each tensor suffice, so these are not verified by digest.
        params = {"ref": ref}
        what = f"{blob.path} of {ref}"
        return _Ranges(
            RangeReader(
                self._transport, f"/blobs/{blob.digest}", params, size=blob.size, etag=hex_of(blob.digest), what=what
            )
        )


class _Ranges:
    """A remote file by range, as a closable source."""

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader

    @property
    def size(self) -> int:
        return self._reader.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._reader.read_into(offset, buffer)

    def close(self) -> None:
        """Nothing to release."""
