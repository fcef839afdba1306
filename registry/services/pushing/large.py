"""Weights that go by LFS: uploads like those of `registry publish`, whose parts a Hub client sends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from registry.catalogue.store import uploads as upload_rows
from registry.digest import PREFIX
from registry.errors import UnavailableError
from registry.reference import Path
from registry.schemas.transfer import Upload, UploadRequest
from registry.services.deployment import Deployment
from registry.services.intake.uploads import begin_upload, drop_upload, staging_of
from registry.services.publishing.candidates import require_publishing
from registry.services.pushing.chosen import MOST_LARGE


@dataclass(frozen=True)
class LargeUpload:
    """What a client has to send of a file; None: all of it is there."""

    oid: str  # the sha256 of its bytes, in hex
    size: int
    upload: Upload | None


def begin_large(deployment: Deployment, path: Path, oid: str, size: int) -> LargeUpload:
    """Begin to take a file by LFS. Clients send all parts or none, so one that broke off begins anew.

    Raises:
        NotAllowedError: the principal may not publish at this path.
        UnavailableError: ``too_large``.
    """
    require_publishing(deployment, path)
    if size > MOST_LARGE:
        raise UnavailableError(
            f"A file has {size} bytes, and a push takes at most {MOST_LARGE}: `registry publish` has no such limit.",
            code="too_large",
        )
    request = UploadRequest(digest=f"{PREFIX}{oid}", size=size)
    found = begin_upload(deployment, request)
    if len(found.there) == found.parts:
        return LargeUpload(oid, size, None)
    if found.there:
        drop_upload(deployment, found.id)
        found = begin_upload(deployment, request)
    return LargeUpload(oid, size, found)


def put_large_part(deployment: Deployment, upload_id: str, number: int, chunks: Iterable[bytes]) -> None:
    """Store a part of a file. LFS clients send no token with it: the id, which only its owner was told, has to do.

    Raises:
        NotFoundError: there is no such upload.
        UsageError: there is no such part, or it has another length.
    """
    with deployment.read() as session:
        row = upload_rows.get(session, upload_id, None)
    deployment.blobs.put_part(staging_of(row), number, chunks)
