"""Materialising: a whole artifact is computed once, and its files are stored as blobs until a given time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy.orm import Session

from registry.catalogue.changes import materialise as changes
from registry.catalogue.changes.materialise import NewMaterialisation
from registry.catalogue.store import materialisations as rows
from registry.catalogue.store.blobs import FileRef
from registry.catalogue.store.materialisations import ListPosition, MaterialisationKey, MaterialisationRow
from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import revisions
from registry.errors import NotFoundError, UsageError
from registry.memory import MemoryCache
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import ArtifactKind, Materialisation, Materialised, Options
from registry.schemas.artifacts import KINDS, is_full
from registry.schemas.requests import DropRequest, MaterialiseRequest
from registry.services.deployment import Deployment
from registry.services.intake.intake import Intake, retry_collected

if TYPE_CHECKING:
    from registry.digest import BlobRef
    from registry.services.artifacts.opened import Asked
    from registry.storage.blobs import StoredBlob
    from registry.tensors.artifacts.artifact import Artifact
    from registry.tensors.lineage.paths import LoadedPath

LIFETIME: Final = 30 * 86400
"""Seconds; the default."""
MAX_LIFETIME: Final = 100 * 365 * 86400
_AHEAD: Final = 256 << 20  # bytes of read-ahead for the base, if each read is a request to the store


def materialise(deployment: Deployment, request: MaterialiseRequest, progress: Progress) -> Materialised:
    """Store an artifact; see `registry.operations.registry.Registry.materialise`. Doing it again extends the time.

    Raises:
        UsageError: its files are stored already as they are, or the lifetime is out of range.
        NotFoundError: the reference names nothing.
        RetractedError: it contains a retracted revision.
    """
    asked = check(deployment, request)
    return retry_collected(lambda: _materialise(deployment, asked, request, progress))


def check(deployment: Deployment, request: MaterialiseRequest) -> Asked:
    """Check that a request can be materialised, before any blob is read; raises what `materialise` raises."""
    from registry.services.artifacts.opened import ask

    reference = Reference.parse(request.ref)
    if not 0 < _lasts(request) <= MAX_LIFETIME:
        raise UsageError(
            f"A materialisation can't be kept for {request.expires_in} seconds: 1 second to 100 years is expected."
        )
    if request.fidelity == "full" and not KINDS[request.kind].is_model:
        raise UsageError(f"--fidelity full is about merged models, not --as {request.kind}: leave it out.")
    if KINDS[request.kind].is_verbatim:
        raise UsageError(
            f"{request.ref} as published can't be materialised: these files are already stored as they are."
        )
    if reference.path.is_base:
        raise UsageError(
            f"{request.ref} is a base model and can't be materialised: its files are already stored as they are."
        )
    return ask(deployment, request.ref, Options(kind=request.kind))


def pinned(deployment: Deployment, request: MaterialiseRequest) -> MaterialiseRequest:
    """The request with its reference pinned to a revision number, which never changes; raises what `check` raises."""
    return request.model_copy(update={"ref": check(deployment, request).path.reference})


def listed(
    deployment: Deployment, ref: str | None, *, limit: int | None = None, after: ListPosition | None = None
) -> tuple[Materialisation, ...]:
    """What is materialised; see `registry.operations.registry.Registry.materialisations`.

    Raises:
        NotFoundError: the reference names nothing.
    """
    with deployment.read() as session:
        if ref is None:
            found = rows.listing(session, limit=limit, after=after)
        else:
            reference = Reference.parse(ref)
            if reference == Reference(reference.path):
                _require_there(session, reference.path)
                found = rows.listing(session, at=reference.path, limit=limit, after=after)
            else:
                revision = revisions.find(session, reference)
                found = rows.listing(session, revision_id=revision.id, limit=limit, after=after)
        return tuple(row.shown for row in found)


def drop(deployment: Deployment, request: DropRequest) -> tuple[Materialisation, ...]:
    """Drop one, or all of a revision; see `registry.operations.registry.Registry.drop_materialisation`.

    Raises:
        NotAllowedError: the principal may not write to the path.
        NotFoundError: no materialisation exists.
    """
    principal, which = deployment.principal, request.which
    by_id = "/" not in which  # adapter paths contain a slash, ids don't
    if not by_id:  # ids outside of the token's scopes are hidden anyway
        deployment.rights.require_on("writer", Reference.parse(which).path, "drop materialisations")

    def work(session: Session) -> tuple[Materialisation, ...]:
        found = (rows.get(session, which),) if by_id else _of_revision(session, which, request.kind)
        changes.drop(session, found, principal)
        return tuple(row.shown for row in found)

    return deployment.change(work)


def _of_revision(session: Session, ref: str, kind: ArtifactKind | None) -> tuple[MaterialisationRow, ...]:
    row = revisions.find(session, Reference.parse(ref))
    found = rows.find(session, [row.id], kind)
    if not found:
        others = sorted({one.reference for one in rows.listing(session, at=Path.parse(row.path))})
        near = [reference for reference in others if reference.rpartition("@")[0] == row.path]
        hint = f" Materialised {'is' if len(near) == 1 else 'are'} {' and '.join(near)}." if near else ""
        raise NotFoundError(f"{row.reference} is not materialised{'' if kind is None else f' as {kind}'}.{hint}")
    return found


def _require_there(session: Session, path: Path) -> None:
    if path.is_base:
        base_rows.get(session, path.base)
    else:
        revisions.adapter(session, path)


def _lasts(request: MaterialiseRequest) -> int:
    return LIFETIME if request.expires_in is None else request.expires_in


def _until(request: MaterialiseRequest) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=_lasts(request))


def _materialise(deployment: Deployment, asked: Asked, request: MaterialiseRequest, progress: Progress) -> Materialised:
    from registry.services.artifacts.build import build_artifact

    meaning = _meaning(deployment, asked)
    there = deployment.change(lambda session: changes.renew(session, meaning, _until(request), deployment.principal))
    if there is not None:
        there = _measured_fully(deployment, asked, there) if request.fidelity == "full" else there
        return Materialised(materialisation=there.shown, created=False, bytes_stored=0)
    # A separate cache for read-ahead, so that the service's shared one is not evicted.
    with (
        closing(MemoryCache(_AHEAD)) as memory,
        build_artifact(
            replace(deployment, memory=memory).artifact_blobs,
            asked.path,
            None,
            asked.options,
            measured=request.fidelity,
        ) as artifact,
    ):
        progress.begin(f"Materialising {asked.path.reference} as {request.kind}", artifact.size)
        with Intake(deployment, progress) as intake:
            files = _take(intake, asked.path, artifact)
            stored = intake.commit()
            new = NewMaterialisation(
                meaning=meaning,
                kind=artifact.kind,
                rendering=artifact.rendering,
                plan=artifact.plan.document(),
                numerics=artifact.numerics,
                notices=artifact.notices,
                files=files,
                fidelity=artifact.fidelity(),
            )
            return _make_visible(deployment, intake, new, request, stored)


def _measured_fully(deployment: Deployment, asked: Asked, row: MaterialisationRow) -> MaterialisationRow:
    """Measure all rows of a model that is materialised already."""
    from registry.services.artifacts.build import build_artifact

    with deployment.read() as session:
        before = rows.fidelity(session, row.id)
    if is_full(before):
        return row
    with build_artifact(deployment.artifact_blobs, asked.path, None, asked.options, measured="full") as artifact:
        artifact.measure()
        found = artifact.fidelity()
    if found is None:
        return row
    return deployment.change(lambda session: changes.measured(session, row.id, found)) or row


def _meaning(deployment: Deployment, asked: Asked) -> MaterialisationKey:
    from registry.services.artifacts.commits import plain_plan
    from registry.tensors.artifacts.plan import ARTIFACT_FORMAT

    plan = plain_plan(asked.path, asked.options)
    if plan is None:
        raise AssertionError("what can't be materialised was refused")
    with deployment.read() as session:
        revision = revisions.find(session, Reference.parse(asked.path.reference))
    return MaterialisationKey(revision.id, plan.digest, ARTIFACT_FORMAT)


def _take(intake: Intake, path: LoadedPath, artifact: Artifact) -> tuple[FileRef, ...]:
    """Store all files of an artifact; verbatim copies of stored blobs are referenced and not read."""
    there = _stored(path)
    files = []
    for file in artifact.files.values():
        if file.digest is not None:
            intake.stored(there[file.digest])
            files.append(FileRef(file.path, file.digest))
        else:
            files.append(FileRef(file.path, intake.made(file.chunks())[0]))
    return tuple(files)


def _stored(path: LoadedPath) -> Mapping[str, BlobRef]:
    every = [path.base.files, *(link.files for link in path.links)]
    return {file.digest: file for files in every for file in files}


def _make_visible(
    deployment: Deployment,
    intake: Intake,
    new: NewMaterialisation,
    request: MaterialiseRequest,
    stored: tuple[StoredBlob, ...],
) -> Materialised:
    """Add the materialisation in one transaction, and build the result."""
    from registry.services.bases.add import as_told

    row, created = intake.change(lambda session: changes.add(session, new, _until(request), deployment.principal))
    size = sum(blob.stored for blob in as_told(deployment, stored))
    return Materialised(materialisation=row.shown, created=created, bytes_stored=size)
