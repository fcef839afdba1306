"""Publishing: every check first, then bytes, then one short transaction that makes the revision visible.

A folder of this machine and a request from a client go the same way; they differ in where the bytes come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

from sqlalchemy.orm import Session

from registry.catalogue import annotations as annotation_rows
from registry.catalogue import browse, publishing, tags
from registry.catalogue.blobs import BlobRow
from registry.catalogue.publishing import NewRevision
from registry.errors import InvalidAdapterError
from registry.folders.hub_source import check_source
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_folder
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.schemas import Published
from registry.services.bases import as_told
from registry.services.candidates import Candidate, Draft, Labels, check_draft, require_publishing
from registry.services.claims import Head, SameHead, check_claims, check_document
from registry.services.deployment import Deployment
from registry.services.given import given_adapter
from registry.services.intake import BytesGoneError, Intake
from registry.services.lineage_check import check_lineage
from registry.services.manifests import Files, new_revision
from registry.services.requests import given_receipt, read_config, weights_file
from registry.services.uploads import drop_taken, take, wanted_bytes
from registry.storage.place import StoredBlob
from registry.tensors.files.finite import FiniteWatch
from registry.tensors.files.source import FileSource
from registry.wire import FileClaim, PublishCommit, PublishPlan, PublishRequest

Take = Callable[[Intake, Candidate], Files]
"""Brings all bytes of a candidate; names, digests and sizes of its files."""


def publish(
    deployment: Deployment,
    place: str | PathLike[str],
    path: str,
    *,
    parent: str | None,
    receipt: Path | None,
    labels: Labels,
    progress: Progress,
) -> Published:
    """Publish an adapter; see `registry.services.protocol.Registry.publish`.

    Raises:
        NotAllowedError: the token may not publish at this path.
        UsageError, NotFoundError, ConflictError: the path or the parent; see `registry.services.parents`.
        InvalidAdapterError: the adapter is not one that can be composed exactly; the code says which rule.
        What `registry.folders.hub_source.bring` raises, where it is to be taken from a Hub.
    """
    tree_path = TreePath.parse(path)
    require_publishing(deployment, tree_path)
    given = given_adapter(place, progress)
    found = adapter_folder(given.folder)
    config = read_config(found)
    with FileSource(weights_file(found)) as weights:
        proof, left_out = given_receipt(receipt, config), given.with_left_out(found.left_out)
        draft = Draft(tree_path, parent, proof, labels, config, weights, left_out, source=given.source)

        def take_files(intake: Intake, candidate: Candidate) -> Files:
            progress.begin("Publishing", sum(one.file.stat().st_size for one in found.files))
            watch = _watch(candidate)
            files = {
                one.path: intake.file(one.file, watch if one.path == ADAPTER_WEIGHTS else None) for one in found.files
            }
            given.check(files)
            return files

        return _published(deployment, draft, None, take_files, progress)


def plan_publish(deployment: Deployment, request: PublishRequest) -> PublishPlan:
    """Check a request; see `registry.services.transfer.Transfer.plan_publish`.

    Raises:
        What `publish` raises.
    """
    claims = _claims(deployment, request)
    candidate = check_draft(deployment, _draft(request, claims))
    new = new_revision(candidate, _files(claims), deployment.actor)
    missing: tuple[str, ...] = ()
    if _existing(deployment, new) is None:
        missing = wanted_bytes(deployment, claims.values(), {}).missing
    return PublishPlan(
        parent=candidate.parent.reference,
        parent_digest=candidate.parent.digest,
        parent_reason=candidate.parent.reason,
        missing=missing,
    )


def commit_publish(deployment: Deployment, commit: PublishCommit, progress: Progress = SILENT) -> Published:
    """Publish what was planned and uploaded; see `registry.services.transfer.Transfer.commit_publish`.

    Raises:
        What `publish` raises, and
        NotFoundError: bytes are neither stored nor uploaded.
        IntegrityError: ``upload_mismatch``, or a copy that does not arrive at its digest.
    """
    claims = _claims(deployment, commit.request)
    draft = _draft(commit.request, claims)

    def take_uploads(intake: Intake, candidate: Candidate) -> Files:
        wanted = wanted_bytes(deployment, claims.values(), commit.uploads)
        progress.begin("Checking what was uploaded", wanted.size)
        take(wanted, intake, {claims[ADAPTER_WEIGHTS].digest: _watch(candidate)})
        return _files(claims)

    published = _published(deployment, draft, _files(claims), take_uploads, progress)
    drop_taken(deployment, commit.uploads)
    return published


def _claims(deployment: Deployment, request: PublishRequest) -> dict[str, FileClaim]:
    """The files of a request whose documents are those that it names."""
    require_publishing(deployment, TreePath.parse(request.path))
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
        request.parent,
        request.receipt,
        Labels.checked(request.message, request.metrics, request.tags, request.annotations),
        request.config,
        Head(ADAPTER_WEIGHTS, request.header, claims[ADAPTER_WEIGHTS].size, InvalidAdapterError),
        request.left_out,
        request.origin,
        check_source(request.source),
    )


def _watch(candidate: Candidate) -> Callable[[int, memoryview], None]:
    """What the weights have to pass on their way: the header that was checked, and finite numbers."""
    head = SameHead(ADAPTER_WEIGHTS, candidate.draft.weights, candidate.header.size, InvalidAdapterError)
    finite = FiniteWatch(candidate.header.entries)

    def both(offset: int, chunk: memoryview) -> None:
        head(offset, chunk)
        finite(offset, chunk)

    return both


def _published(
    deployment: Deployment, draft: Draft, claimed: Files | None, bring: Take, progress: Progress
) -> Published:
    """Check, bring the bytes, publish; once more where a collector came between."""
    try:
        return _publish_once(deployment, draft, claimed, bring, progress)
    except BytesGoneError:
        return _publish_once(deployment, draft, claimed, bring, progress)


def _publish_once(
    deployment: Deployment, draft: Draft, claimed: Files | None, bring: Take, progress: Progress
) -> Published:
    candidate = check_draft(deployment, draft)
    if claimed is not None:
        new = new_revision(candidate, claimed, deployment.actor)
        if _existing(deployment, new) is not None:
            return _make_visible(deployment, candidate, new, Intake(deployment, progress), ())
    with Intake(deployment, progress) as intake:
        files = bring(intake, candidate)
        with intake.opened(files[ADAPTER_WEIGHTS][0]) as weights:
            check_lineage(deployment, candidate.lineage, candidate.checkpoint, weights)
        new = new_revision(candidate, files, deployment.actor)
        stored = () if _existing(deployment, new) is not None else intake.commit()
        return _make_visible(deployment, candidate, new, intake, stored)


def _make_visible(
    deployment: Deployment,
    candidate: Candidate,
    new: NewRevision,
    intake: Intake,
    stored: tuple[StoredBlob, ...],
) -> Published:
    """The one transaction, and what comes after it."""
    labels, principal = candidate.draft.labels, deployment.principal

    def work(session: Session) -> tuple[int, bool, Mapping[str, BlobRow]]:
        noted = intake.record(session)
        row, created = publishing.publish(session, new, principal)
        for tag in labels.tags:
            tags.set_tag(session, row.id, tag, principal)
        annotation_rows.annotate(
            session, row.id, metrics=labels.metrics, annotations=labels.annotations, principal=principal
        )
        return row.id, created, noted

    revision_id, created, noted = deployment.change(work)
    intake.settle(noted)
    with deployment.read() as session:
        summary = browse.summary(session, revision_id)
    return Published(
        revision=summary,
        created=created,
        parent_digest=candidate.parent.digest,
        parent_reason=candidate.parent.reason,
        left_out=candidate.draft.left_out,
        bytes_stored=sum(blob.stored for blob in as_told(deployment, stored)),
        registry=deployment.url,
    )


def _existing(deployment: Deployment, new: NewRevision) -> object | None:
    """The adapter's revision of this digest."""
    with deployment.read() as session:
        return browse.with_digest(session, new.path, new.digest)
