"""Stored bytes, as they were published: for copying, and for composing on the client's machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Depends, Path, Request, Response

from registry.api.openapi import octets, problems
from registry.api.parameters import from_query
from registry.digest import hex_of
from registry.http.artifacts import redirect_to_store
from registry.http.dependencies import RequestRegistry, service_of
from registry.http.reads import ReadRoute
from registry.http.wire.bodies import FileBody
from registry.schemas.protocol import API
from registry.schemas.requests import ReferenceRequest
from registry.services.artifacts.bundles import find_blob

if TYPE_CHECKING:
    from registry.storage.reading import BlobReader

router = APIRouter(prefix=API, tags=["transfer"], route_class=ReadRoute)

_PIECE: Final = 4 << 20
Ref = Annotated[ReferenceRequest, Depends(from_query(ReferenceRequest))]
DigestOfBlob = Annotated[str, Path(pattern="^sha256:[0-9a-f]{64}$", examples=["sha256:" + "5f" * 32])]


@router.head(
    "/blobs/{digest}", operation_id="head_blob", response_class=Response, responses=problems(304, 400, 404, 410)
)
@router.get(
    "/blobs/{digest}",
    response_class=Response,
    responses={200: octets("The blob."), 206: octets("A range of it."), **problems(304, 307, 400, 404, 410, 416)},
)
def read_blob(registry: RequestRegistry, request: Request, digest: DigestOfBlob, asked_for: Ref) -> Response:
    """The bytes of a blob that belongs to the lineage of a reference, whole or by a single range."""
    blob = find_blob(registry.deployment, asked_for.ref, digest)
    etag = hex_of(blob.digest)
    response = redirect_to_store(request, registry.deployment, blob, etag, etag)
    if response is not None:
        return response
    reader = registry.deployment.open_blob(blob)
    body = FileBody(
        etag=etag,
        size=blob.size,
        chunks=lambda start, stop: pieces(reader, start, stop),
        close=reader.close,
        kind="blob",
        name=etag,
    )
    return service_of(request).bodies.answer(request, body, admission="copied")


def pieces(reader: BlobReader, start: int, stop: int) -> Iterator[memoryview]:
    """The bytes of a blob in order; each piece is checked before it is yielded."""
    for at in range(start, stop, _PIECE):
        piece = memoryview(bytearray(min(_PIECE, stop - at)))
        reader.read_into(at, piece)
        yield piece
