"""Artifacts: what a path means, as files that can be read by range while they are computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from registry.api.openapi import octets, problems
from registry.api.parameters import from_query
from registry.api.uses import note_use
from registry.digest import PREFIX
from registry.errors import NotFoundError, UnavailableError
from registry.http.artifacts import file_answer, open_artifact
from registry.http.dependencies import RequestRegistry, service_of
from registry.http.etags import JsonAnswer, with_etag
from registry.http.reads import ReadRoute
from registry.schemas import Options
from registry.schemas.bundles import ArtifactPlan
from registry.schemas.protocol import API
from registry.schemas.requests import ReferenceRequest
from registry.services.artifacts.opened import Asked, ask, described

router = APIRouter(prefix=API, tags=["artifacts"], route_class=ReadRoute)

RenderingHex = Annotated[
    str, Path(pattern="^[0-9a-f]{64}$", description="The rendering without `sha256:`.", examples=["a1" * 32])
]
FilePath = Annotated[str, Path(min_length=1, max_length=512, examples=["adapter_model.safetensors"])]


Ref = Annotated[ReferenceRequest, Depends(from_query(ReferenceRequest))]
Wanted = Annotated[Options, Depends(from_query(Options))]


@router.get("/artifacts", response_model=ArtifactPlan, responses=problems(304, 400, 404, 410))
def plan_artifact(registry: RequestRegistry, request: Request, asked_for: Ref, options: Wanted) -> JsonAnswer:
    """The files of an artifact, with their sizes and tags; only headers are read, unless ranks must be determined."""
    asked = ask(registry.deployment, asked_for.ref, options)
    handle = open_artifact(service_of(request), registry.deployment, asked)
    try:
        note_use(request, registry.deployment, asked.path.reference, unless_said="fetch")
        return with_etag(request, described(asked.path, asked.ancestor, handle.artifact, with_files=True))
    finally:
        handle.close()


@router.head(
    "/artifacts/{rendering}/{path:path}",
    operation_id="head_artifact",
    response_class=Response,
    responses=problems(304, 400, 404, 410),
)
@router.get(
    "/artifacts/{rendering}/{path:path}",
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
    asked = ask(registry.deployment, asked_for.ref, options)
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
