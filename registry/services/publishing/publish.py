"""Publishing: all checks first, then the bytes, then one short transaction that makes the revision visible.

Local folders, requests from clients, pushes, rebased and combined adapters all go this way; they differ in where the
bytes come from. A preview makes the same checks, those of the weights' values included, and stores nothing. In nested
folders the parents are not published either then, so their files are read from their folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import revisions
from registry.digest import BlobRef, StoredFile
from registry.errors import InvalidAdapterError, NotFoundError
from registry.files.source import ByteSource, FileSource
from registry.folders.scan import form_of
from registry.operations.publication import Publication
from registry.operations.transfer import ClosableSource
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import Published, PublishPreview
from registry.schemas.parents import NarrowRequest, PathsLeft, accepted
from registry.schemas.tags import MEASURED_CODES
from registry.schemas.transfer import GivenReceipt, PublishCommit, PublishPlan, PublishRequest
from registry.services.artifacts.load import path_to
from registry.services.deployment import Deployment
from registry.services.exact.model_folder import check_exact
from registry.services.intake.intake import Intake, retry_collected
from registry.services.intake.uploads import dropped_when_refused, take
from registry.services.publishing.candidates import Candidate, check_draft, require_known, require_publishing
from registry.services.publishing.draft import Draft, Files
from registry.services.publishing.identify import with_compared
from registry.services.publishing.lineage_check import check_lineage, copies_tell
from registry.services.publishing.lookup import Claims, Nesting
from registry.services.publishing.narrowing import narrow_paths
from registry.services.publishing.new_revision import make_visible, new_revision
from registry.services.publishing.parents import Told, find_parent
from registry.services.publishing.port import Compared
from registry.services.publishing.weight_notices import (
    check_products,
    kept_notices,
    of_directions,
    refuse_measured,
    refuse_noticed,
    with_notices,
)
from registry.tensors.analysis.directions import DirectionWatch
from registry.tensors.arithmetic.streamed import FiniteWatch, Watch, pass_by, watched_by
from registry.tensors.lineage.paths import Link, LoadedPath, with_ancestors
from registry.transfer.publish_request import (
    PublishFolder,
    SameHead,
    check_claims,
    check_document,
    preview,
)
from registry.transfer.trained_on import receipt_of_parent

Take = Callable[[Intake, Candidate, Watch], Files]
"""Takes all bytes of a candidate into the intake; returns names, digests and sizes of its files.

The watch has to see the bytes of the weights.
"""


def plan_publish(deployment: Deployment, request: PublishRequest) -> PublishPlan:
    """Check a request; see `registry.operations.transfer.Transfer.plan_publish`.

    Raises:
        What `InProcess.publish` raises.
    """
    return _planned(deployment, request, None)[1]


def _planned(
    deployment: Deployment, request: PublishRequest, lineage: LoadedPath | None
) -> tuple[Candidate, PublishPlan]:
    """Also the candidate; ``lineage``: of a parent that is only planned, if known."""
    draft, claims = _announced(request, {})
    candidate = check_draft(deployment, draft, claims, nesting=Nesting(lineage))
    found = candidate.found
    new = new_revision(candidate, claims.sizes, deployment.principal)
    if found.wanted is not None:
        new = with_notices(deployment, new, found.wanted.recorded)
        refuse_noticed(candidate.draft, [one.notice for one in new.noticed])
    plan = PublishPlan(
        parent=candidate.parent.reference,
        parent_digest=candidate.parent.digest,
        parent_reason=candidate.parent.reason,
        parent_known_by=candidate.parent.known_by,
        missing=() if found.wanted is None else found.wanted.missing,
        digest=new.digest,
        existing=found.existing,
        rank=new.rank,
        parameters=new.parameters,
        notices=(*new.notices, *(str(one.notice) for one in new.noticed)),
    )
    return candidate, plan


def commit_publish(deployment: Deployment, commit: PublishCommit, progress: Progress = SILENT) -> Published:
    """Publish an adapter that was planned and uploaded; see `registry.operations.transfer.Transfer.commit_publish`.

    Raises:
        What `InProcess.publish` raises, and
        NotFoundError: bytes are neither stored nor uploaded.
        UnavailableError: ``upload_incomplete``, the store lost some of the uploaded bytes.
        IntegrityError: ``upload_mismatch``, or ``copy_mismatch``.
    """
    with dropped_when_refused(deployment, commit.uploads):
        draft, claims = _announced(commit.request, commit.uploads)
        return publish_draft(deployment, draft, claims, progress)


def _announced(request: PublishRequest, uploads: Mapping[str, str]) -> tuple[Draft, Claims]:
    """What a client announces, after checking its files and that the configuration matches its claim."""
    files = check_claims(request.files, InvalidAdapterError)
    form = form_of(files)
    for path in (form.config, form.weights):
        if path not in files:
            raise InvalidAdapterError(
                f"{request.path} has no {path}; a folder written by PEFT's save_pretrained is expected.",
                code="missing_file",
            )
    check_document(files, form.config, request.config)
    return Draft.of_request(request, form, files[form.weights].size), Claims(files, uploads)


def publish_draft(deployment: Deployment, draft: Draft, files: Claims | Take, progress: Progress) -> Published:
    """Check, take the bytes, publish, after the check of rights; retried once if a collector removed bytes meanwhile.

    Args:
        deployment: where it is published.
        draft: what is published.
        files: those that are uploaded or stored already; or what takes them from where they are.
        progress: of taking and checking them.

    Raises:
        What `InProcess.publish` raises.
    """
    return retry_collected(lambda: _publish_once(deployment, draft, files, progress))


def _watch(candidate: Candidate, directions: DirectionWatch) -> Watch:
    """A watch on the bytes of the weights: the header must be the checked one, and all numbers finite."""
    head = SameHead(candidate.draft.form.weights, candidate.draft.weights, candidate.header.size, InvalidAdapterError)
    return watched_by(head, FiniteWatch(candidate.header.entries), directions)


def _publish_once(deployment: Deployment, draft: Draft, files: Claims | Take, progress: Progress) -> Published:
    claims = files if isinstance(files, Claims) else None
    take_files = partial(_take_claimed, files, progress) if isinstance(files, Claims) else files
    candidate = check_draft(deployment, draft, claims)
    found = candidate.found
    if claims is not None and found.existing is not None:
        refuse_noticed(draft, kept_notices(deployment, found.existing))
        new = new_revision(candidate, claims.sizes, deployment.principal)
        return make_visible(candidate, new, Intake(deployment, progress), ())
    recorded = None if found.wanted is None else found.wanted.recorded
    with Intake(deployment, progress, recorded) as intake:
        watch = DirectionWatch(candidate.header, candidate.checkpoint)
        taken = take_files(intake, candidate, _watch(candidate, watch))
        with intake.opened(taken[draft.form.weights][0]) as weights:
            if candidate.exact is not None:
                progress.begin("Checking the model", candidate.exact.bytes_of_tensors)
                check_exact(deployment, candidate.lineage, candidate.exact, weights, progress.advance)
                directions = None
            else:
                check_lineage(deployment, candidate.lineage, candidate.checkpoint, weights)
                candidate = with_copies(deployment, candidate, weights)
                candidate = with_told(candidate, check_products(deployment, candidate, watch, weights))
                directions = watch.directions(weights)
            new = with_notices(deployment, new_revision(candidate, taken, deployment.principal), recorded, directions)
            refuse_noticed(draft, [one.notice for one in new.noticed])
            if candidate.exact is None:
                refuse_measured(deployment, candidate, weights)
        stored = intake.commit()  # also for an existing revision: repairs blobs that the store lost or damaged
        return make_visible(candidate, new, intake, stored)


def _take_claimed(claims: Claims, progress: Progress, intake: Intake, candidate: Candidate, watch: Watch) -> Files:
    wanted = candidate.found.wanted
    assert wanted is not None, "the bytes of an existing revision are not taken"
    progress.begin("Checking what was uploaded", wanted.size)
    take(wanted, intake, {claims.files[candidate.draft.form.weights].digest: watch})
    return claims.sizes


def with_told(candidate: Candidate, notices: tuple[str, ...]) -> Candidate:
    """The candidate with more notices about what it does."""
    checkpoint = candidate.checkpoint
    return replace(candidate, checkpoint=replace(checkpoint, notices=(*checkpoint.notices, *notices)))


def with_copies(deployment: Deployment, candidate: Candidate, weights: ByteSource) -> Candidate:
    """The candidate, its parent proven by its ``file`` if its copies of whole weights rule out all others.

    Raises:
        ConflictError: ``parent_unproven``, the registry does not accept what is only assumed.
    """
    parent, path = candidate.parent, candidate.draft.path
    if not accepted(parent.known_by, "proven") and candidate.checkpoint.copies and path.parent is not None:
        paths = InProcess(deployment).published(path, None)
        others = [one for one in paths if one.reference != parent.reference]
        if copies_tell(deployment, others, candidate.checkpoint, weights):
            reason = f"{parent.reason}, and the whole weights that the adapter keeps are its"
            candidate = replace(candidate, parent=replace(parent, known_by="file", reason=reason))
    require_known(deployment, candidate.draft, candidate.parent)
    return candidate


@dataclass
class InProcess:
    """A registry in process, as a target: folders are compared, planned and published against it.

    Nested folders are planned parents first: what was planned counts as published for those below. Retracted revisions
    are compared too, and refused when they are pinned.
    """

    deployment: Deployment
    compared: Compared = field(default_factory=Compared)
    _files: dict[str, Path] = field(default_factory=dict)  # by digest: files of the planned folders
    _lineages: dict[str, LoadedPath] = field(default_factory=dict)  # by the digest of their last revision

    def open_blob(self, blob: BlobRef) -> ClosableSource:
        if blob.digest in self._files and not blob.key:
            return FileSource(self._files[blob.digest])
        return self.deployment.artifact_blobs.open_blob(blob)

    def bases(self) -> Sequence[str]:
        with self.deployment.read() as session:
            return [one.name for one in base_rows.summaries(session)]

    def path(self, reference: str) -> LoadedPath:
        parsed = Reference.parse(reference)
        with self.deployment.read() as session:
            row = None if parsed.path.is_base else revisions.find(session, parsed)
            return path_to(session, base_rows.get(session, parsed.path.base), row, with_retracted=True)

    def candidates(self, request: PublishRequest) -> Sequence[LoadedPath]:
        """They are given as far as they are visible, or proven by the receipt; what is planned only, as well."""
        planned = self._planned(request)
        try:
            found = self.published(TreePath.parse(request.path), request.receipt)
        except NotFoundError:
            if planned is None:
                raise
            found = ()
        known = {one.tip for one in found}
        above = () if planned is None else with_ancestors([planned])
        return [*found, *(_named(one) for one in above if one.tip not in known)]

    def published(self, path: TreePath, receipt: GivenReceipt | None) -> Sequence[LoadedPath]:
        """The candidates that are published."""
        with self.deployment.read() as session:
            base = base_rows.get(session, path.base)
            rows = {row.id: row for row in revisions.pinnable(session, path)}
            if receipt is not None and receipt.receipt.tip is not None:
                rows |= {row.id: row for row in revisions.pinnable(session, path, digest=receipt.receipt.tip)}
            return with_ancestors(
                [
                    path_to(session, base, None),
                    *(path_to(session, base, row, with_retracted=True) for row in rows.values()),
                ]
            )

    def _planned(self, request: PublishRequest) -> LoadedPath | None:
        """Of a nested folder the lineage of the one above, if that was planned."""
        above = Reference.parse(request.parent).digest_prefix if request.nested and request.parent else None
        return self._lineages.get(above or "")

    def narrow(self, request: NarrowRequest, *, progress: Progress) -> PathsLeft:
        return narrow_paths(self.deployment, request, progress)

    def plan(self, folder: PublishFolder, progress: Progress) -> PublishPreview:
        require_publishing(self.deployment, TreePath.parse(folder.request.path))
        request = with_compared(self, folder, progress).request
        candidate, plan = _planned(self.deployment, request, self._planned(request))
        with FileSource(folder.weights.file) as source:
            if candidate.exact is not None:
                progress.begin("Checking the model", candidate.exact.bytes_of_tensors)
                check_exact(self, candidate.lineage, candidate.exact, source, progress.advance)
            progress.begin("Checking the weights", source.size)
            finite = FiniteWatch(candidate.header.entries)
            directions = DirectionWatch(candidate.header, candidate.checkpoint)
            pass_by(source, watched_by(finite, directions), progress.advance)
            check_lineage(self, candidate.lineage, candidate.checkpoint, source)
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
        """Publish a folder; see `registry.operations.registry.Registry.publish`.

        Raises:
            NotAllowedError: the principal may not publish at this path.
            UsageError, NotFoundError, ConflictError: the path or the parent; see
                `registry.services.publishing.parents`.
            InvalidAdapterError: the adapter can't be composed exactly; the code names the rule that it breaks.
        """
        require_publishing(self.deployment, TreePath.parse(folder.request.path))
        folder = with_compared(InProcess(self.deployment), folder, progress)  # as it is now, independent of the plan

        def take_files(intake: Intake, _candidate: Candidate, watch: Watch) -> Files:
            progress.begin("Publishing", folder.size)
            files = {
                one.path: intake.file(one.file, watch if one.path == folder.form.weights else None)
                for one in folder.files
            }
            folder.check(files)
            return files

        draft = Draft.of_request(folder.request, folder.form, folder.weights.size)
        return publish_draft(self.deployment, draft, take_files, progress)

    def compare(self, folder: PublishFolder, progress: Progress) -> PublishFolder:
        return with_compared(self, folder, progress)


def _with_link(candidate: Candidate, found: PublishPreview) -> LoadedPath:
    """The lineage that a planned revision will have."""
    files = tuple(StoredFile(file.digest, file.size, "", "", file.path) for file in found.files)
    scalings = tuple(sorted({pair.scaling for pair in candidate.checkpoint.pairs.values()}))
    link = Link(found.path, 0, found.digest, found.rank, scalings, files)
    lineage = candidate.lineage
    return replace(lineage, reference=found.reference or found.path, links=(*lineage.links, link))


def _named(path: LoadedPath) -> LoadedPath:
    """A path, referred to without a number if its last revision is only planned and has none."""
    return replace(path, reference=path.links[-1].path) if path.links and not path.links[-1].number else path


def parent_here(deployment: Deployment, publication: Publication) -> LoadedPath:
    """The parent of a full model in a registry in process, before what it changed is computed.

    Raises:
        NotAllowedError: the principal may not publish at this path.
        What `registry.services.publishing.parents.find_parent` raises.
        RetractedError: the parent or one of its ancestors was retracted.
    """
    require_publishing(deployment, publication.path)
    with deployment.read() as session:
        told = Told(parent=publication.parent, receipt=receipt_of_parent(publication.receipt, None))
        parent = find_parent(session, publication.path, told)
        return path_to(session, parent.base, parent.row)
