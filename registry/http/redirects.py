"""Redirects to presigned URLs of the store, where clients can reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi import Request, Response

from registry.digest import BlobRef
from registry.http.wire.ranges import has

if TYPE_CHECKING:
    from registry.services.deployment import Deployment

_SIGNED_AT_LEAST: Final = 15 * 60  # seconds
_SIGNED_AT_MOST: Final = 7 * 24 * 3600  # what S3 allows
_SLOWEST: Final = 1 << 20  # bytes a second: the slowest download that a signature outlives


def redirect_to_store(
    request: Request, deployment: Deployment, blob: BlobRef, etag: str, name: str, *, status: int = 307
) -> Response | None:
    """A redirect to a presigned URL; None where the service has to send the bytes itself."""
    if request.method != "GET" or has(request.headers, etag):
        return None
    lasts = min(max(_SIGNED_AT_LEAST, blob.size // _SLOWEST), _SIGNED_AT_MOST)
    url = deployment.blobs.sign_get(blob, lasts, name.rpartition("/")[2])
    if url is None:
        return None
    headers = {"Location": url, "Cache-Control": "no-store", "ETag": f'"{etag}"'}
    return Response(status_code=status, headers=headers)
