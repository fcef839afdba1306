"""Publishing: all checks first, then the bytes, then one short transaction that makes the revision visible.

Local folders and requests from clients share this code; they differ in where the bytes come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from sqlalchemy.orm import Session

from registry.catalogue.changes import annotations as annotation_rows
from registry.catalogue.changes import publish as publishing
from registry.catalogue.changes import tags
from registry.catalogue.changes.publish import NewRevision
from registry.catalogue.tree import browse
from registry.errors import InvalidAdapterError
from registry.files.source import ByteSource
from registry.folders.hub.repository import check_source
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.operations.publication import Labels, Publication
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.schemas import Published, RevisionSummary, Tagged
from registry.schemas.transfer import FileClaim, PublishCommit, PublishPlan, PublishRequest
from registry.services.bases.add import as_told
from registry.services.deployment import Deployment
from registry.services.intake.intake import Intake, retry_collected
from registry.services.intake.uploads import drop_taken, dropped_when_refused, take, wanted_bytes
from registry.services.lineage import LoadedPath
from registry.services.publishing.candidates import Candidate, Draft, Said, check_draft, require_publishing
from registry.services.publishing.lineage_check import check_lineage, copies_tell
from registry.services.publishing.manifests import Files, new_revision
from registry.services.publishing.parent_candidates import parent_candidates
from registry.services.publishing.parent_check import compare_trained
from registry.services.publishing.parents import require_proven
from registry.storage.blobs import StoredBlob
from registry.tensors.elements.finite import FiniteWatch
from registry.transfer.adapter_folder import AdapterFolder, read_adapter
from registry.transfer.claims import Head, SameHead, check_claims, check_derivation, check_document

Take = Callable[[Intake, Candidate], Files]
"""Takes all bytes of a candidate into the intake; returns names, digests and sizes of its files."""


def publish(deployment: Deployment, publication: Publication, progress: Progress) -> Published:
    """Publish an adapter; see `registry.operations.registry.Registry.publish`.

    Raises:
        NotAllowedError: the principal may not publish at this path.
        UsageError, NotFoundError, ConflictError: the path or the parent; see `registry.services.publishing.parents`.
        InvalidAdapterError: the adapter can't be composed exactly; the code says which rule it breaks.
        What `registry.folders.hub.repository.bring` raises, if the folder is a repository of a Hub.
    """
    require_publishing(deployment, publication.path)
    skip = publication.skip_parent_check
    folder = read_adapter(publication.folder, receipt=publication.receipt, skip_parent_check=skip, progress=progress)
    said = Said(publication.parent, folder.receipt, skip)
    return publish_read(deployment, folder, publication.path, said, publication.labels, progress)


def publish_read(
    deployment: Deployment, folder: AdapterFolder, path: TreePath, said: Said, labels: Labels, progress: Progress
) -> Published:
    """Publish a folder that was read, after the check of rights; raises what `publish` raises."""
    if folder.trained_on is not None:
        weights = folder.weights.file
        compared = compare_trained(deployment, path, folder.trained_on, folder.receipt, weights, progress)
        said = replace(said, compared=compared)
    draft = Draft(
        path,
        said,
        labels,
        folder.config,
        folder.head,
        folder.left_out,
        source=folder.given.source,
        derived_from=folder.derived_from,
        quantised=folder.quantised,
    )

    def take_files(intake: Intake, candidate: Candidate) -> Files:
        progress.begin("Publishing", folder.size)
        watch = _watch(candidate)
        files = {
            one.path: intake.file(one.file, watch if one.path == ADAPTER_WEIGHTS else None) for one in folder.files
        }
        folder.check(files)
        return files

    return _published(deployment, draft, None, take_files, progress)


def plan_publish(deployment: Deployment, request: PublishRequest) -> PublishPlan:
    """Check a request; see `registry.operations.transfer.Transfer.plan_publish`.

    Raises:
        What `publish` raises.
    """
    return planned_publish(deployment, request)[1]


def planned_publish(
    deployment: Deployment, request: PublishRequest, lineage: LoadedPath | None = None
) -> tuple[Candidate, PublishPlan]:
    """Like `plan_publish`, and also returns the candidate; ``lineage``: of a parent that is only planned, if known.

    Raises:
        What `publish` raises.
    """
    claims = _claims(request)
    candidate = check_draft(deployment, _draft(request, claims), planning=True, planned=lineage)
    new = new_revision(candidate, _files(claims), deployment.principal)
    existing = _existing(deployment, new)
    plan = PublishPlan(
        parent=candidate.parent.reference,
        parent_digest=candidate.parent.digest,
        parent_reason=candidate.parent.reason,
        parent_known_by=candidate.parent.known_by,
        missing=() if existing else wanted_bytes(deployment, claims.values(), {}).missing,
        digest=new.digest,
        existing=existing.reference if existing else None,
        rank=new.rank,
        parameters=new.parameters,
        notices=new.notices,
    )
    return candidate, plan


def commit_publish(deployment: Deployment, commit: PublishCommit, progress: Progress = SILENT) -> Published:
    """Publish an adapter that was planned and uploaded; see `registry.operations.transfer.Transfer.commit_publish`.

    Raises:
        What `publish` raises, and
        NotFoundError: bytes are neither stored nor uploaded.
        UnavailableError: ``upload_incomplete``, the store lost some of the uploaded bytes.
        IntegrityError: ``upload_mismatch``, or ``copy_mismatch``.
    """
    with dropped_when_refused(deployment, commit.uploads):
        published = _commit(deployment, commit, progress)
    drop_taken(deployment, commit.uploads)
    return published


def _commit(deployment: Deployment, commit: PublishCommit, progress: Progress) -> Published:
    claims = _claims(commit.request)
    draft = _draft(commit.request, claims)

    def take_uploads(intake: Intake, candidate: Candidate) -> Files:
        wanted = wanted_bytes(deployment, claims.values(), commit.uploads)
        progress.begin("Checking what was uploaded", wanted.size)
        take(wanted, intake, {claims[ADAPTER_WEIGHTS].digest: _watch(candidate)})
        return _files(claims)

    return _published(deployment, draft, _files(claims), take_uploads, progress)


def _claims(request: PublishRequest) -> dict[str, FileClaim]:
    """The files of a request by name, after checking them and that the configuration matches its claim."""
    claims = check_claims(request.files, InvalidAdapterError)
    for path in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if path not in claims:
            raise InvalidAdapterError(
                f"{request.path} has no {path}; a folder written by PEFT's save_pretrained is expected.",
                code="missing_file",
            )
    check_document(claims, ADAPTER_CONFIG, request.config)
    return claims


def _files(claims: Mapping[str, FileClaim]) -> Files:
    return {path: (claim.digest, claim.size) for path, claim in claims.items()}


def _draft(request: PublishRequest, claims: Mapping[str, FileClaim]) -> Draft:
    return Draft(
        TreePath.parse(request.path),
        Said(request.parent, request.receipt, request.skip_parent_check, request.nested, request.compared),
        Labels.checked(request.message, request.metrics, request.tags, request.annotations),
        request.config,
        Head(ADAPTER_WEIGHTS, request.header, claims[ADAPTER_WEIGHTS].size, InvalidAdapterError),
        request.left_out,
        request.origin,
        check_source(request.source),
        check_derivation(request.derived_from),
        request.quantised,
    )


def _watch(candidate: Candidate) -> Callable[[int, memoryview], None]:
    """A watch on the bytes of the weights: the header must be the checked one, and all numbers finite."""
    head = SameHead(ADAPTER_WEIGHTS, candidate.draft.weights, candidate.header.size, InvalidAdapterError)
    finite = FiniteWatch(candidate.header.entries)

    def both(offset: int, chunk: memoryview) -> None:
        head(offset, chunk)
        finite(offset, chunk)

    return both


def _published(
    deployment: Deployment, draft: Draft, claimed: Files | None, bring: Take, progress: Progress
) -> Published:
    """Check, take the bytes, publish; retried once if a collector removed bytes meanwhile."""
    return retry_collected(lambda: _publish_once(deployment, draft, claimed, bring, progress))


def _publish_once(
    deployment: Deployment, draft: Draft, claimed: Files | None, bring: Take, progress: Progress
) -> Published:
    candidate = check_draft(deployment, draft)
    if claimed is not None:
        new = new_revision(candidate, claimed, deployment.principal)
        if _existing(deployment, new) is not None:
            return _make_visible(deployment, candidate, new, Intake(deployment, progress), ())
    with Intake(deployment, progress) as intake:
        files = bring(intake, candidate)
        with intake.opened(files[ADAPTER_WEIGHTS][0]) as weights:
            check_lineage(deployment, candidate.lineage, candidate.checkpoint, weights)
            candidate = with_copies(deployment, candidate, weights)
        new = new_revision(candidate, files, deployment.principal)
        stored = intake.commit()  # also for an existing revision: repairs blobs that the store lost or damaged
        return _make_visible(deployment, candidate, new, intake, stored)


def with_copies(deployment: Deployment, candidate: Candidate, weights: ByteSource) -> Candidate:
    """The candidate, its parent ``compared`` instead of ``assumed`` if its copies of whole weights rule out all others.

    Raises:
        ConflictError: ``parent_unproven``, the registry takes proven parents only, and this one is not.
    """
    parent, above = candidate.parent, candidate.draft.path.parent
    if parent.known_by == "assumed" and candidate.checkpoint.copies and above is not None:
        paths = parent_candidates(deployment, candidate.draft.path, above, None)
        others = [path for path in paths if path.reference != parent.reference]
        if copies_tell(deployment, others, candidate.checkpoint, weights):
            reason = f"{parent.reason}, and the whole weights that the adapter keeps are its"
            candidate = replace(candidate, parent=replace(parent, known_by="compared", reason=reason))
    if deployment.proven_parents:
        require_proven(candidate.parent)
    return candidate


def _make_visible(
    deployment: Deployment,
    candidate: Candidate,
    new: NewRevision,
    intake: Intake,
    stored: tuple[StoredBlob, ...],
) -> Published:
    """Publish and label the revision in one transaction, and build the result."""
    labels, principal = candidate.draft.labels, deployment.principal

    def work(session: Session) -> tuple[int, RevisionSummary | None, tuple[Tagged, ...]]:
        row, created = publishing.publish(session, new, principal)
        before = None if created else browse.summary(session, row.id)
        tagged = tuple(tags.set_tag(session, row.id, tag, principal) for tag in dict.fromkeys(labels.tags))
        annotation_rows.annotate(
            session, row.id, metrics=labels.metrics, annotations=labels.annotations, principal=principal
        )
        return row.id, before, tagged

    revision_id, before, tagged = intake.change(work)
    with deployment.read() as session:
        summary = browse.summary(session, revision_id)
    return Published(
        revision=summary,
        created=before is None,
        parent_digest=candidate.parent.digest,
        parent_reason=candidate.parent.reason,
        left_out=candidate.draft.left_out,
        bytes_stored=sum(blob.stored for blob in as_told(deployment, stored)),
        registry=deployment.url,
        applied=() if before is None else tuple(_applied(labels, before)),
        not_applied=() if before is None else tuple(_not_applied(candidate.draft, before)),
        tagged=tagged,
    )


def _applied(labels: Labels, before: RevisionSummary) -> Iterator[str]:
    """The labels that a publish changed on an existing revision."""
    yield from (f"tag {tag}" for tag in labels.tags if tag not in before.tags)
    yield from (f"metric {name}" for name, value in labels.metrics.items() if before.metrics.get(name) != value)
    yield from (f"annotation {key}" for key, text in labels.annotations.items() if before.annotations.get(key) != text)


def _not_applied(draft: Draft, before: RevisionSummary) -> Iterator[str]:
    """What was given but not taken for an existing revision, as it belongs to its first publish."""
    if draft.labels.message and draft.labels.message != before.message:
        yield "message"
    if draft.source is not None and draft.source != before.source:
        yield "source"


def _existing(deployment: Deployment, new: NewRevision) -> RevisionSummary | None:
    """The adapter's revision with this digest, if it exists."""
    with deployment.read() as session:
        return browse.with_digest(session, new.path, new.digest)
