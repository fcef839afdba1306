"""Clients are sent to the store itself for bytes that lie there, where they can reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi import Request, Response

from registry.http.ranges import names
from registry.storage.place import BlobPlace

if TYPE_CHECKING:
    from registry.services.deployment import Deployment

_SIGNED_AT_LEAST: Final = 15 * 60  # seconds
_SIGNED_AT_MOST: Final = 7 * 24 * 3600  # what S3 allows
_SLOWEST: Final = 1 << 20  # bytes a second of a download that a signature has to outlive


def redirected(
    request: Request, deployment: Deployment, place: BlobPlace, etag: str, name: str, *, status: int = 307
) -> Response | None:
    """Send a client to the store itself, where that can be reached; None where the service sends the bytes."""
    if request.method != "GET" or names(request.headers.get("if-none-match"), etag):
        return None
    lasts = min(max(_SIGNED_AT_LEAST, place.size // _SLOWEST), _SIGNED_AT_MOST)
    url = deployment.blobs.sign_get(place, lasts, name.rpartition("/")[2])
    if url is None:
        return None
    headers = {"Location": url, "Cache-Control": "no-store", "ETag": f'"{etag}"'}
    return Response(status_code=status, headers=headers)
