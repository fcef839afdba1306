"""Artifacts: what a path means, as files that can be read by range while they are computed."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from registry.api.browse import Ref
from registry.api.openapi import octets, problems
from registry.digest import PREFIX
from registry.errors import UnavailableError
from registry.http.acting import Acting, service_of
from registry.http.artifacts import borrow, file_answer
from registry.http.tagged import JsonAnswer, tagged
from registry.schemas import ArtifactKind, Dtype, Options
from registry.services.handing_out import Asked, ask, described
from registry.wire import API, ArtifactPlan

router = APIRouter(prefix=API, tags=["artifacts"])

RenderingHex = Annotated[
    str, Path(pattern="^[0-9a-f]{64}$", description="The rendering without `sha256:`.", examples=["a1" * 32])
]
FilePath = Annotated[str, Path(min_length=1, max_length=512, examples=["adapter_model.safetensors"])]


def _options(
    kind: ArtifactKind = "lora",
    since: Annotated[str | None, Query(min_length=1, max_length=512)] = None,
    rank: Annotated[int | None, Query(ge=1, le=1 << 20)] = None,
    max_error: Annotated[float | None, Query(gt=0, lt=1)] = None,
    *,
    uniform: bool = False,
    dtype: Dtype | None = None,
) -> Options:
    """How the artifact is asked for."""
    return Options(kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)


Wanted = Annotated[Options, Depends(_options)]


@router.get("/artifacts", response_model=ArtifactPlan, responses=problems(304, 400, 404, 410))
def plan_artifact(registry: Acting, request: Request, ref: Ref, options: Wanted) -> JsonAnswer:
    """The files of an artifact, with their sizes and tags; only headers are read, unless ranks are to be found."""
    asked = ask(registry.deployment, ref, options)
    loan = borrow(service_of(request), registry.deployment, asked)
    try:
        return tagged(request, described(asked.path, asked.ancestor, loan.artifact, with_files=True))
    finally:
        loan.close()


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
    registry: Acting, request: Request, rendering: RenderingHex, path: FilePath, ref: Ref, options: Wanted
) -> Response:
    """The bytes of a file of an artifact, whole or by a single range."""
    asked = ask(registry.deployment, ref, options)
    check = partial(_require_rendering, asked, PREFIX + rendering)
    return file_answer(request, registry.deployment, asked, path, check=check)


def _require_rendering(asked: Asked, wanted: str, made: str) -> None:
    if made != wanted:
        raise UnavailableError(
            f"This service makes {asked.path.reference} as {made}, not as {wanted}: its arithmetic is another, or the "
            "reference meant another revision then. Ask for the plan again.",
            code="numerics",
        )
