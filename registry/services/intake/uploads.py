"""Uploads, by which clients send bytes in parts: what a commit needs is uploaded, stored already, or missing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.store import blobs as blob_rows
from registry.catalogue.store import uploads as upload_rows
from registry.catalogue.store.uploads import UploadRow
from registry.digest import BlobRef, is_digest
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidAdapterError,
    InvalidBaseError,
    NotFoundError,
    RegistryError,
    RetractedError,
    UnavailableError,
    UsageError,
)
from registry.files.source import ByteSource, read_range
from registry.progress import Progress
from registry.schemas.transfer import FileClaim, Upload, UploadRequest
from registry.services.deployment import Deployment
from registry.services.intake.intake import BytesGoneError, Intake
from registry.storage.reading import Watch
from registry.storage.staging import MOST_PARTS, Staging

PART: Final = 16 << 20
_STEP: Final = 1 << 20
_SIGNED_FOR: Final = 6 * 3600  # seconds
_SIGNED_AT_ONCE: Final = 500  # parts: for more, a client sends another request and gets fresh URLs

_FOR_GOOD: Final = (InvalidAdapterError, InvalidBaseError, ConflictError, UsageError, RetractedError)

log = logging.getLogger(__name__)


def begin_upload(deployment: Deployment, request: UploadRequest) -> Upload:
    """Begin an upload, or resume an open one of the same bytes.

    Raises:
        NotAllowedError: the principal may only read.
        UsageError: the digest is malformed.
    """
    deployment.rights.require("writer", "upload")
    if not is_digest(request.digest):
        raise UsageError(f"{request.digest[:80]!r} is not a digest: sha256: and 64 hex digits are expected.")
    with deployment.read() as session:
        row = upload_rows.find(session, request.digest, request.size, deployment.principal)
    if row is not None:
        try:
            _keep_alive(deployment, row)
            return _answer(deployment, row)
        except NotFoundError:  # the store dropped it after a long time without activity
            forget_upload(deployment, row.id)
    staging = deployment.blobs.begin_staging(request.size, part_size(request.size), request.digest)

    def work(session: Session) -> UploadRow:
        return upload_rows.create(
            session,
            request.digest,
            request.size,
            deployment.principal,
            part_size=staging.part_size,
            staging_key=staging.key,
            multipart=staging.multipart,
        )

    return _answer(deployment, deployment.change(work), new=True)


def part_size(size: int) -> int:
    """Bytes of a part: 16 MiB, or more if that would make too many parts."""
    return max(PART, -(-size // (MOST_PARTS * _STEP)) * _STEP)


def get_upload(deployment: Deployment, upload_id: str) -> Upload:
    """The state of an upload, with fresh presigned URLs; raises `NotFoundError`."""
    row = _row(deployment, upload_id)
    _keep_alive(deployment, row)
    return _answer(deployment, row)


def put_part(deployment: Deployment, upload_id: str, number: int, chunks: Iterable[bytes]) -> None:
    """Store one part that is sent through the service.

    Raises:
        NotFoundError: this principal has no such upload.
        UsageError: the upload has no such part, or it has another length.
    """
    row = _row(deployment, upload_id)
    deployment.blobs.put_part(staging_of(row), number, chunks)
    _keep_alive(deployment, row)


def drop_upload(deployment: Deployment, upload_id: str) -> None:
    """Delete an upload and its parts; raises `NotFoundError`."""
    row = _row(deployment, upload_id)
    deployment.blobs.drop_staging(staging_of(row))
    forget_upload(deployment, upload_id)


def upload(deployment: Deployment, digest: str, source: ByteSource, progress: Progress) -> str:
    """Upload local bytes; see `registry.operations.transfer.Transfer.upload`."""
    begun = begin_upload(deployment, UploadRequest(digest=digest, size=source.size))
    progress.begin("Uploading", source.size)
    for number in range(1, begun.parts + 1):
        start = (number - 1) * begun.part_size
        stop = min(start + begun.part_size, source.size)
        if number in begun.there:
            progress.advance(stop - start)
        else:
            put_part(deployment, begun.id, number, _chunks(source, start, stop, progress))
    return begun.id


def _chunks(source: ByteSource, start: int, stop: int, progress: Progress) -> Iterator[bytes]:
    for at in range(start, stop, _STEP):
        chunk = bytes(read_range(source, at, min(at + _STEP, stop)))
        progress.advance(len(chunk))
        yield chunk


def _row(deployment: Deployment, upload_id: str) -> UploadRow:
    deployment.rights.require("writer", "upload")
    with deployment.read() as session:
        return upload_rows.get(session, upload_id, deployment.principal)


def _keep_alive(deployment: Deployment, row: UploadRow) -> None:
    """Extend the lifetime of an active upload: parts may go to the store directly, unseen by this process."""
    if row.expires_at - datetime.now(UTC) < upload_rows.LIFETIME / 2:
        deployment.change(lambda session: upload_rows.extend(session, row.id))


def forget_upload(deployment: Deployment, upload_id: str) -> None:
    """Remove the row of an upload whose bytes are gone."""
    deployment.change(lambda session: upload_rows.remove(session, upload_id))


def staging_of(row: UploadRow) -> Staging:
    """Where the bytes of an upload are."""
    return Staging(row.staging_key, row.multipart, row.size, row.part_size)


def _answer(deployment: Deployment, row: UploadRow, *, new: bool = False) -> Upload:
    staging = staging_of(row)
    lengths = {} if new else deployment.blobs.parts(staging)  # the store is not queried for what was never sent
    numbers = range(1, staging.part_count + 1)
    there = tuple(number for number in numbers if lengths.get(number) == staging.part_length(number))
    urls = {}
    missing = (number for number in numbers if lengths.get(number) != staging.part_length(number))
    for number in islice(missing, _SIGNED_AT_ONCE):
        if (url := deployment.blobs.sign_part(staging, number, _SIGNED_FOR)) is not None:
            urls[number] = url
    return Upload(
        id=row.id,
        digest=row.digest,
        size=row.size,
        part_size=row.part_size,
        parts=staging.part_count,
        there=there,
        urls=urls,
        expires_at=datetime.now(UTC) + timedelta(seconds=_SIGNED_FOR),
    )


@dataclass(frozen=True)
class Wanted:
    """The bytes of a set of files by digest, and where they are."""

    sizes: Mapping[str, int]
    uploads: Mapping[str, UploadRow]
    stored: Mapping[str, BlobRef]  # as far as the principal sees them
    recorded: Mapping[str, BlobRef]  # regardless of visibility: equal bytes are stored once

    @property
    def missing(self) -> tuple[str, ...]:
        """Digests of what is neither uploaded nor visibly stored."""
        return tuple(digest for digest in self.sizes if digest not in self.uploads and digest not in self.stored)

    @property
    def size(self) -> int:
        """Total bytes."""
        return sum(self.sizes.values())


def wanted_bytes(session: Session, claims: Iterable[FileClaim], uploads: Iterable[UploadRow]) -> Wanted:
    """Find the bytes of files in the open uploads of their client, or in the store.

    Hidden blobs count as missing, since naming a digest does not prove having its bytes.

    Raises:
        UsageError: a file is claimed with another size than that of the stored bytes.
    """
    sizes = {claim.digest: claim.size for claim in claims}
    found = {row.digest: row for row in uploads if sizes.get(row.digest) == row.size}
    recorded = blob_rows.rows(session, sizes)
    seen = blob_rows.visible(session, recorded.keys() - found.keys())
    stored = {digest: recorded[digest] for digest in sizes if digest in seen}
    for digest, blob in stored.items():
        if blob.size != sizes[digest]:
            raise UsageError(f"{digest} is given with {sizes[digest]} bytes, but has {blob.size}.")
    return Wanted(sizes, found, stored, recorded)


def take(wanted: Wanted, intake: Intake, watches: Mapping[str, Watch]) -> None:
    """Take all bytes into the intake; each watch sees the bytes of its digest.

    Raises:
        NotFoundError: bytes are neither uploaded nor stored.
        UnavailableError: ``upload_incomplete``, the store lost some of the uploaded bytes.
        IntegrityError: ``upload_mismatch``.
    """
    if wanted.missing:
        raise NotFoundError(
            f"The bytes {wanted.missing[0]} are neither uploaded nor stored: upload them, and commit again."
        )
    for digest in wanted.sizes:
        watch = watches.get(digest)
        row = wanted.uploads.get(digest)
        if row is None:
            intake.stored(wanted.stored[digest], watch)
        else:
            _take_one(intake, row, watch)


def _take_one(intake: Intake, row: UploadRow, watch: Watch | None) -> None:
    try:
        intake.upload(row.digest, staging_of(row), watch)
    except (IntegrityError, NotFoundError, UnavailableError) as problem:
        gone = isinstance(problem, NotFoundError)
        if gone or problem.code == "upload_mismatch":
            forget_upload(intake.deployment, row.id)  # nothing of it is left
        if (gone or problem.code == "upload_incomplete") and _is_stored(intake.deployment, row.digest):
            # Two commits of one principal shared an upload of the same bytes, and the other one committed first.
            raise BytesGoneError(
                f"The upload of {row.digest} was used by another commit in the meantime: commit again."
            ) from problem
        if gone:
            sentence = f"The upload of {row.digest} is no longer in the store: upload it again, and commit again."
            raise UnavailableError(sentence, code="upload_incomplete") from problem
        raise


def _is_stored(deployment: Deployment, digest: str) -> bool:
    with deployment.read() as session:
        return digest in blob_rows.visible(session, blob_rows.rows(session, [digest]))


@contextmanager
def dropped_when_refused(deployment: Deployment, uploads: Mapping[str, str]) -> Iterator[None]:
    """Drop uploads when their commit fails permanently, since no retry will use them."""
    try:
        yield
    except _FOR_GOOD:
        drop_taken(deployment, uploads)
        raise


def drop_taken(deployment: Deployment, uploads: Mapping[str, str]) -> None:
    """Delete uploads that are no longer needed. A failure is only logged, as the collector removes them later."""
    for upload_id in uploads.values():
        try:
            drop_upload(deployment, upload_id)
        except NotFoundError:
            continue
        except RegistryError as problem:
            log.warning("the upload %s was not removed and is left to gc: %s", upload_id, problem)


def drop_bytes(deployment: Deployment, uploads: Iterable[UploadRow]) -> None:
    """Delete the bytes of uploads whose rows are gone. A failure is only logged: the collector deletes them later."""
    for row in uploads:
        try:
            deployment.blobs.drop_staging(staging_of(row))
        except RegistryError as problem:
            log.warning("the bytes of the upload %s were not removed and are left to gc: %s", row.id, problem)
