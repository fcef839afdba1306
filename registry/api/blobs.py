"""Stored bytes, as they were published: for copying, and for composing on the client's machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Path, Request, Response

from registry.api.browse import Ref, TreePath
from registry.api.openapi import octets, problems
from registry.digest import hex_of
from registry.http.acting import Acting, service_of
from registry.http.bodies import Bytes
from registry.http.redirects import redirected
from registry.http.tagged import JsonAnswer, tagged
from registry.services import bundles
from registry.services.bundles import find_blob
from registry.wire import API, Bundle

if TYPE_CHECKING:
    from registry.storage.reading import BlobReader

router = APIRouter(prefix=API, tags=["transfer"])

_PIECE: Final = 4 << 20
DigestOfBlob = Annotated[str, Path(pattern="^sha256:[0-9a-f]{64}$", examples=["sha256:" + "5f" * 32])]


@router.get("/bundles", response_model=Bundle, responses=problems(304, 400, 404, 410))
def bundle(registry: Acting, request: Request, ref: Ref) -> JsonAnswer:
    """A path as digests, with all that composing or copying it needs."""
    return tagged(request, bundles.bundle(registry.deployment, ref))


@router.get("/subtree", responses=problems(400, 404))
def subtree(registry: Acting, path: TreePath) -> tuple[str, ...]:
    """References of all revisions at and under a path, parents first."""
    return bundles.subtree(registry.deployment, path)


@router.head(
    "/blobs/{digest}", operation_id="head_blob", response_class=Response, responses=problems(304, 400, 404, 410)
)
@router.get(
    "/blobs/{digest}",
    response_class=Response,
    responses={200: octets("The blob."), 206: octets("A range of it."), **problems(304, 307, 400, 404, 410, 416)},
)
def read_blob(registry: Acting, request: Request, digest: DigestOfBlob, ref: Ref) -> Response:
    """The bytes of a blob that belongs to the lineage of a reference, whole or by a single range."""
    place = find_blob(registry.deployment, ref, digest)
    etag = hex_of(place.digest)
    response = redirected(request, registry.deployment, place, etag, etag)
    if response is not None:
        return response
    reader = registry.deployment.open_blob(place)
    body = Bytes(
        etag=etag,
        size=place.size,
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
