"""Bytes by range: stored blobs, for copying and for merging elsewhere; and artifacts, computed while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Depends, Path, Request, Response

from registry.api.openapi import octets, problems
from registry.api.parameters import from_query
from registry.digest import PREFIX, hex_of
from registry.errors import NotFoundError, UnavailableError
from registry.http.artifacts import file_answer, open_artifact, redirect_to_store
from registry.http.bodies import FileBody
from registry.http.conditional import JsonAnswer, with_etag
from registry.http.dependencies import RequestRegistry, service_of
from registry.http.reads import ReadRoute
from registry.schemas import Options
from registry.schemas.protocol import API, NOT_A_USE, USE_HEADER
from registry.schemas.requests import ReferenceRequest
from registry.schemas.transfer import ArtifactPlan
from registry.schemas.usage import OVER_HTTP, Interface
from registry.services.artifacts.bundles import find_blob
from registry.services.artifacts.opened import Asked, ask, described
from registry.services.deployment import Deployment

if TYPE_CHECKING:
    from registry.storage.reading import BlobReader

router = APIRouter(prefix=API, route_class=ReadRoute)


_TRANSFER: Final[list[str | Enum]] = ["transfer"]
_PIECE: Final = 4 << 20
Ref = Annotated[ReferenceRequest, Depends(from_query(ReferenceRequest))]
DigestOfBlob = Annotated[str, Path(pattern="^sha256:[0-9a-f]{64}$", examples=["sha256:" + "5f" * 32])]


@router.head(
    "/blobs/{digest}",
    tags=_TRANSFER,
    operation_id="head_blob",
    response_class=Response,
    responses=problems(304, 400, 404, 410),
)
@router.get(
    "/blobs/{digest}",
    tags=_TRANSFER,
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


def note_use(request: Request, deployment: Deployment, reference: str, *, unless_said: Interface | None) -> None:
    """Note that weights of a reference were requested, as the client says or, if it says nothing known, as given."""
    said = request.headers.get(USE_HEADER)
    if said == NOT_A_USE:
        return
    interface = next((known for known in OVER_HTTP if known == said), unless_said)
    if interface is not None:
        deployment.note_use(reference, interface)


_ARTIFACTS: Final[list[str | Enum]] = ["artifacts"]
RenderingHex = Annotated[
    str, Path(pattern="^[0-9a-f]{64}$", description="The rendering without `sha256:`.", examples=["a1" * 32])
]
FilePath = Annotated[str, Path(min_length=1, max_length=512, examples=["adapter_model.safetensors"])]


Wanted = Annotated[Options, Depends(from_query(Options))]


@router.get("/artifacts", tags=_ARTIFACTS, response_model=ArtifactPlan, responses=problems(304, 400, 404, 410))
def plan_artifact(registry: RequestRegistry, request: Request, asked_for: Ref, options: Wanted) -> JsonAnswer:
    """The files of an artifact, with their sizes and tags; only headers are read, unless ranks must be determined."""
    asked = ask(registry.deployment, *options.of(asked_for.ref))
    handle = open_artifact(service_of(request), registry.deployment, asked)
    try:
        note_use(request, registry.deployment, asked.path.reference, unless_said="fetch")
        return with_etag(request, described(asked.path, asked.ancestor, handle.artifact, with_files=True))
    finally:
        handle.close()


@router.head(
    "/artifacts/{rendering}/{path:path}",
    tags=_ARTIFACTS,
    operation_id="head_artifact",
    response_class=Response,
    responses=problems(304, 400, 404, 410),
)
@router.get(
    "/artifacts/{rendering}/{path:path}",
    tags=_ARTIFACTS,
    response_class=Response,
    responses={
        200: octets("The file."),
        206: octets("A range of it."),
        **problems(304, 307, 400, 404, 410, 416),
    },
)
def read_artifact(
    registry: RequestRegistry,
    request: Request,
    rendering: RenderingHex,
    path: FilePath,
    asked_for: Ref,
    options: Wanted,
) -> Response:
    """The bytes of a file of an artifact, whole or by a single range."""
    asked = ask(registry.deployment, *options.of(asked_for.ref))
    known = partial(service_of(request).renderings.knows, rights=registry.deployment.rights)
    check = partial(_require_rendering, known, asked, PREFIX + rendering)
    return file_answer(request, registry.deployment, asked, path, check=check)


def _require_rendering(known: Callable[[str], bool], asked: Asked, wanted: str, made: str) -> None:
    if made != wanted:
        if known(wanted):  # so it is of something else, and no other replica makes it of this
            raise NotFoundError(
                f"{wanted} is not the rendering of {asked.path.reference} with these options, which is {made}: it "
                "belongs to another path or to other options. Request the plan again."
            )
        raise UnavailableError(
            f"This service renders {asked.path.reference} as {made}, not as {wanted}: its arithmetic differs, or the "
            "reference pointed at another revision then. Request the plan again.",
            code="numerics",
        )
