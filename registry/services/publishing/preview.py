"""Publishing without storing anything: all checks that publishing makes, those of the weights' values included.

In nested folders the parents are not published either, so their files are read from their folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from registry.digest import BlobRef, StoredFile
from registry.files.source import FileSource
from registry.operations.transfer import ClosableSource
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import FolderCompared, Published, PublishPreview
from registry.schemas.publishing import FullSize
from registry.schemas.tags import MEASURED_CODES
from registry.services.deployment import Deployment
from registry.services.exact.figures import full_size
from registry.services.exact.model_folder import check_exact
from registry.services.lineage import Link, LoadedPath
from registry.services.publishing.candidates import Candidate, require_publishing
from registry.services.publishing.lineage_check import check_lineage
from registry.services.publishing.noticing import of_directions, refuse_noticed
from registry.services.publishing.parent_adapter import Planned, search_trained, with_compared
from registry.services.publishing.port import Compared, InProcess
from registry.services.publishing.publish import planned_publish, publish_folder, with_copies
from registry.tensors.analysis.directions import DirectionWatch
from registry.tensors.arithmetic.streamed import FiniteWatch, pass_by, watched_by
from registry.transfer.adapter_folder import PublishFolder, preview
from registry.transfer.trained_on import UNTIMED, TrainedFolder


@dataclass
class Rehearsal:
    """Plans nested folders in a registry in process, parents first, and then publishes them."""

    deployment: Deployment
    compared: Compared = field(default_factory=Compared)  # what folders that were searched for were found to be
    _files: dict[str, Path] = field(default_factory=dict)  # by digest: files of the planned folders
    _lineages: dict[str, LoadedPath] = field(default_factory=dict)  # by the digest of their last revision

    def plan(self, folder: PublishFolder, progress: Progress) -> PublishPreview:
        """Check a folder; see `registry.operations.registry.Registry.preview`."""
        request = folder.request
        path = TreePath.parse(request.path)
        require_publishing(self.deployment, path)
        above = Reference.parse(request.parent).digest_prefix if request.nested and request.parent else None
        lineage, blobs = self._lineages.get(above or ""), _Overlay(self.deployment, self._files)
        planned = None if lineage is None else Planned(lineage, blobs)
        request = with_compared(InProcess(self.deployment), folder, progress, planned).request
        candidate, plan = planned_publish(self.deployment, request, lineage)
        with FileSource(folder.weights.file) as source:
            if candidate.exact is not None:
                progress.begin("Checking the model", candidate.exact.bytes_of_tensors)
                check_exact(blobs, candidate.lineage, candidate.exact, source, progress.advance)
            progress.begin("Checking the weights", source.size)
            finite = FiniteWatch(candidate.header.entries)
            directions = DirectionWatch(candidate.header, candidate.checkpoint)
            pass_by(source, watched_by(finite, directions), progress.advance)
            check_lineage(blobs, candidate.lineage, candidate.checkpoint, source)
            noticed = [one.notice for one in of_directions(directions.directions(source))]
            refuse_noticed(candidate.draft, noticed)
            plan = plan.model_copy(update={"notices": (*plan.notices, *map(str, noticed))})
            if candidate.parent.planned is None:
                candidate = with_copies(self.deployment, candidate, source)
                known = {"parent_reason": candidate.parent.reason, "parent_known_by": candidate.parent.known_by}
                plan = plan.model_copy(update=known)
        later = ", ".join(code for code in request.strict if code in MEASURED_CODES)
        unchecked = (f"whether it has the notices {later}, which take computing",) if later else ()
        found = preview(folder, plan, self.deployment.url, unchecked)
        self._files.update(folder.sources)
        self._lineages[found.digest] = _with_link(candidate, found)
        return found

    def publish(self, folder: PublishFolder, progress: Progress) -> Published:
        """Publish a folder as its request says; one that is nested stands on what the folder above was published as."""
        require_publishing(self.deployment, TreePath.parse(folder.request.path))
        return publish_folder(self.deployment, folder, progress)

    def searched(self, folder: TrainedFolder, progress: Progress) -> FolderCompared:
        """Find the revisions, among all, whose merged weights a folder has, or which are nearest."""
        return search_trained(InProcess(self.deployment, self.compared), folder, UNTIMED, progress)

    def full_size(self, base: str, folder: Path, far: float, progress: Progress) -> FullSize | None:
        """See `registry.services.exact.figures.full_size`."""
        where = InProcess(self.deployment)
        return full_size(where.blobs, where.path(base), folder, far, progress)


def _with_link(candidate: Candidate, found: PublishPreview) -> LoadedPath:
    """The lineage that a planned revision will have."""
    files = tuple(StoredFile(file.digest, file.size, "", "", file.path) for file in found.files)
    scalings = tuple(sorted({pair.scaling for pair in candidate.checkpoint.pairs.values()}))
    link = Link(found.path, 0, found.digest, found.rank, scalings, files)
    lineage = candidate.lineage
    return replace(lineage, reference=found.reference or found.path, links=(*lineage.links, link))


class _Overlay:
    """The blobs of a registry, overlaid by the files of planned folders."""

    def __init__(self, deployment: Deployment, files: Mapping[str, Path]) -> None:
        self._deployment, self._files = deployment, files

    def open_blob(self, blob: BlobRef) -> ClosableSource:
        if blob.digest in self._files and not blob.key:
            return FileSource(self._files[blob.digest])
        return self._deployment.open_blob(blob)
