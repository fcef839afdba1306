"""Compares the folder that an adapter was trained on with the candidates for its parent, on this machine.

The service trusts the client's result, since it has never seen the folder.
"""

from __future__ import annotations

from pathlib import Path

from registry.client.arithmetic import MakeArithmetic
from registry.client.base_folders import BaseFolders
from registry.client.calls import listed
from registry.client.download.blobs import open_blob
from registry.client.download.ranges import RangeReader
from registry.client.http.transport import Transport
from registry.digest import hex_of
from registry.errors import NotFoundError, RetractedError
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.operations.table import LOG
from registry.operations.transfer import ClosableSource
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.schemas import FolderCompared
from registry.schemas.bundles import BlobEntry, Bundle
from registry.schemas.requests import PathRequest
from registry.transfer.requests import PublishFolder
from registry.transfer.trained_on import TrainedFolder


class ParentFolders:
    """What a client needs to compare folders."""

    def __init__(self, transport: Transport, arithmetic: MakeArithmetic | None, room: Path) -> None:
        self._transport = transport
        self._arithmetic = arithmetic
        self._room = room

    def compared(self, folder: PublishFolder, progress: Progress) -> PublishFolder:
        """The request with the result of comparing the folder, if there is one."""
        above = TreePath.parse(folder.request.path).parent
        trained_on = folder.adapter.trained_on
        if trained_on is None or above is None:
            return folder
        return folder.with_request(compared=self._look(trained_on, folder.adapter.weights.file, above, progress))

    def _look(self, trained_on: TrainedFolder, weights: Path, above: TreePath, progress: Progress) -> FolderCompared:
        if self._arithmetic is None:
            return FolderCompared(
                words=trained_on.words, reason="torch is needed for that, and it is not installed here"
            )
        try:
            bundles = self._bundles(above)
        except NotFoundError as problem:
            return FolderCompared(words=trained_on.words, reason=f"this token does not see it ({problem})".rstrip("."))
        remembered = BaseFolders(self._room).find(bundles[0].base, progress)
        return self._arithmetic().look_into(
            bundles, self._open, {} if remembered is None else remembered[1], trained_on, weights, progress
        )

    def _bundles(self, above: TreePath) -> list[Bundle]:
        """The base model, and every revision of the parent that is not retracted."""
        bundles = [self._bundle(above.base)]
        if above.is_base:
            return bundles
        for revision in listed(self._transport, LOG, PathRequest(path=str(above)), None):
            if revision.retracted is None:
                try:
                    bundles.append(self._bundle(revision.reference))
                except RetractedError:  # since the listing
                    continue
        return bundles

    def _bundle(self, ref: str) -> Bundle:
        return self._transport.get("/bundles", Bundle, slow=True, ref=ref)

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
