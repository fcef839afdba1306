"""Uploads, by which clients send bytes in parts before these are checked: see `registry.services.intake.wanted`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.store import uploads as upload_rows
from registry.catalogue.store.uploads import UploadRow
from registry.digest import is_digest
from registry.errors import (
    ConflictError,
    InvalidAdapterError,
    InvalidBaseError,
    NotFoundError,
    RetractedError,
    UsageError,
)
from registry.files.source import ByteSource, read_range
from registry.progress import Progress
from registry.schemas.transfer import Upload, UploadRequest
from registry.services.deployment import Deployment
from registry.storage.staging import MOST_PARTS, Staging

PART: Final = 16 << 20
_STEP: Final = 1 << 20
_SIGNED_FOR: Final = 6 * 3600  # seconds
_SIGNED_AT_ONCE: Final = 500  # parts: for more, a client asks again and gets fresh URLs

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
    """Bytes of a part: 16 MiB, or more where that would make too many parts."""
    return max(PART, -(-size // (MOST_PARTS * _STEP)) * _STEP)


def get_upload(deployment: Deployment, upload_id: str) -> Upload:
    """The state of an upload, with fresh presigned URLs; raises `NotFoundError`."""
    row = _row(deployment, upload_id)
    _keep_alive(deployment, row)
    return _answer(deployment, row)


def put_part(deployment: Deployment, upload_id: str, number: int, chunks: Iterable[bytes]) -> None:
    """Store one part that is sent through the service.

    Raises:
        NotFoundError: there is no such upload of this principal.
        UsageError: there is no such part, or it has another length.
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
    lengths = {} if new else deployment.blobs.parts(staging)  # the store is not asked what was never sent
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
