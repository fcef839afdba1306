"""The bytes that a commit wants: uploaded, stored already, or missing; and the end of its uploads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.store import blobs as blob_rows
from registry.catalogue.store.uploads import UploadRow
from registry.digest import BlobRef
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
from registry.schemas.transfer import FileClaim
from registry.services.deployment import Deployment
from registry.services.intake.intake import BytesGoneError, Intake
from registry.services.intake.uploads import drop_upload, forget_upload, staging_of
from registry.storage.checking import Watch

_FOR_GOOD: Final = (InvalidAdapterError, InvalidBaseError, ConflictError, UsageError, RetractedError)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """The bytes of a set of files by digest, and where they are."""

    sizes: Mapping[str, int]
    uploads: Mapping[str, UploadRow]
    stored: Mapping[str, BlobRef]  # as far as the principal sees them
    recorded: Mapping[str, BlobRef]  # whoever sees them: equal bytes are stored once

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
