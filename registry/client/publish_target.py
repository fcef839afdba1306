"""A service as the target of this machine's folders: they are compared, planned and published against it.

It returns its paths as bundles; this machine's tensor core, if installed, compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.client.calls import do, listed
from registry.client.fetch import BaseFolders
from registry.client.publish import plan_publish, publish_folder
from registry.client.ranges import RangeReader, open_blob
from registry.client.tensor_core import MakeArithmetic, needed
from registry.client.transport import Transport
from registry.digest import hex_of
from registry.errors import ConflictError, NotFoundError, RetractedError, UsageError
from registry.files.hashed import HashedFile
from registry.folders.scan import ADAPTER_WEIGHTS, EXACT
from registry.operations.publication import Publication
from registry.operations.table import BASES, LOG, NARROW
from registry.operations.transfer import ClosableSource
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.reference import Reference, meant_alone
from registry.schemas import FolderCompared, Published, PublishPreview, Resolved
from registry.schemas.parents import NarrowRequest, PathsLeft
from registry.schemas.requests import BasesRequest, PathRequest
from registry.schemas.transfer import BlobEntry, Bundle
from registry.transfer.publish_request import PublishFolder, preview
from registry.transfer.trained_on import receipt_of_parent


@dataclass(frozen=True)
class RemoteTarget:
    """A service, and what this machine can compare and check itself.

    Args:
        transport: to the service.
        arithmetic: loads this machine's tensor core, if it has one.
        room: the folder of the cache, which also remembers base models.
    """

    transport: Transport
    arithmetic: MakeArithmetic | None
    room: Path

    def plan(self, folder: PublishFolder, progress: Progress) -> PublishPreview:
        # The weights of a parent that is only planned can't be read anywhere.
        request, trained_on = folder.request, folder.trained_on
        planned = request.nested and trained_on is not None and not self._is_there(request.parent)
        if not planned:
            folder = self.compare(folder, progress)
        plan = plan_publish(self.transport, folder.request)
        return preview(folder, plan, self.transport.url, self._unchecked(folder, progress, compared=not planned))

    def _is_there(self, parent: str | None) -> bool:
        try:
            self.transport.get("/resolve", Resolved, ref=parent)
        except NotFoundError:
            return False
        return True

    def _unchecked(self, folder: PublishFolder, progress: Progress, *, compared: bool) -> Iterator[str]:
        """The checks left to the service, which reads no weights before they are published."""
        if folder.form is EXACT:
            yield "whether its values are finite and not its parent's: the service checks that when it is published"
            return
        if self.arithmetic is None:
            yield "whether all weights are finite: torch is not installed here"
        else:
            self.arithmetic().check_finite(folder.weights.file, progress)
        if not compared:
            yield "whether the folder that it was trained on is that of its parent, which is not published yet"
        yield "notices about its weights: the service looks for them when they are published"
        yield "whether its weights fit those of its lineage: the service checks that when they are published"

    def publish(self, folder: PublishFolder, progress: Progress) -> Published:
        hashed = folder if folder.hashed else folder.with_digests(progress)
        return publish_folder(self.transport, self.compare(hashed, progress), progress)

    def compare(self, folder: PublishFolder, progress: Progress) -> PublishFolder:
        """The service trusts what this machine finds, since it has never seen the folder that was trained on."""
        trained_on = folder.trained_on
        if trained_on is None or TreePath.parse(folder.request.path).parent is None:
            return folder
        if self.arithmetic is None and not folder.request.find_parent:
            reason = "torch is needed for that, and it is not installed here"
            return folder.with_request(compared=FolderCompared(words=trained_on.words, reason=reason))
        return needed(self.arithmetic, "search for a parent").compare(self, folder, progress)

    def bases(self) -> Sequence[str]:
        return [base.name for base in listed(self.transport, BASES, BasesRequest(), None).items]

    def bundle(self, ref: str) -> Bundle:
        return self.transport.get("/bundles", Bundle, slow=True, ref=ref)

    def revisions(self, above: TreePath) -> list[Bundle]:
        bundles = [self.bundle(above.base)]
        if above.is_base:
            return bundles
        for revision in listed(self.transport, LOG, PathRequest(path=str(above)), None).items:
            if revision.retracted is None:
                try:
                    bundles.append(self.bundle(revision.reference))
                except RetractedError:  # since the listing
                    continue
        return bundles

    def base_files(self, bundle: Bundle, progress: Progress) -> Mapping[str, HashedFile]:
        remembered = BaseFolders(self.room).find(bundle.base, progress)
        return {} if remembered is None else remembered[1]

    def narrow(self, request: NarrowRequest) -> PathsLeft:
        return do(self.transport, NARROW, request, SILENT)

    def open_blob(self, ref: str, blob: BlobEntry) -> ClosableSource:
        if not blob.path.endswith(".safetensors") or blob.path == ADAPTER_WEIGHTS:
            return open_blob(self.transport, ref, blob, self.room)
        # Base weights are large, and some rows of each tensor suffice, so these are not verified by digest.
        params = {"ref": ref}
        what = f"{blob.path} of {ref}"
        etag = hex_of(blob.digest)
        return RangeReader(self.transport, f"/blobs/{blob.digest}", params, size=blob.size, etag=etag, what=what)

    def parent_of_full(self, publication: Publication) -> Bundle:
        """The path to the parent of a full model; the service finds it again when the adapter is published.

        Raises:
            NotFoundError, RetractedError: the revision does not exist, or can't be read.
            UsageError: ``parent_ambiguous``, the parent has several revisions and none is given.
            ConflictError: ``parent_mismatch``, the given revision is none of the parent that the path names.
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
        listing = listed(self.transport, LOG, PathRequest(path=str(above)), None).items
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
