"""Artifacts: what a path means, as files that can be read by range while they are computed."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from registry.api.acting import Acting, service_of
from registry.api.blobs import redirected
from registry.api.bodies import Bytes
from registry.api.browse import Ref
from registry.api.openapi import octets, problems
from registry.api.shelf import Loan
from registry.api.tagged import JsonAnswer, tagged
from registry.digest import PREFIX, document_digest
from registry.errors import NotFoundError, UnavailableError
from registry.schemas import ArtifactKind, Dtype, Options
from registry.services.artifacts import make_plan
from registry.services.deployment import Deployment
from registry.services.handing_out import Asked, ask, described, etag, open_asked
from registry.storage.place import BlobPlace
from registry.tensors.artifacts.artifact import Artifact
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
    loan = _borrow(request, registry.deployment, asked)
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
    if options.kind == "published":
        place = _published_file(asked, PREFIX + rendering, path)
        response = redirected(request, registry.deployment, place, etag(PREFIX + rendering, path), path)
        if response is not None:
            return response
    loan = _borrow(request, registry.deployment, asked)
    try:
        _require_rendering(asked, loan.artifact.rendering, PREFIX + rendering)
        file = loan.artifact.file(path)
    except BaseException:
        loan.close()
        raise
    lanes = None if options.kind != "published" else 2
    body = Bytes(
        etag=etag(loan.artifact.rendering, path),
        size=file.size,
        chunks=partial(file.chunks, lanes=lanes),
        close=loan.close,
        kind="artifact",
        name=path,
    )
    return service_of(request).bodies.answer(
        request, body, admission="copied" if options.kind == "published" else "computed"
    )


def _borrow(request: Request, deployment: Deployment, asked: Asked) -> Loan:
    service = service_of(request)

    def plan() -> Artifact:
        if asked.options.rank is None and asked.options.max_error is None:
            return open_asked(deployment, asked)
        with service.truncations.seat():  # the ranks are found now, which is the work
            return open_asked(deployment, asked)

    return service.shelf.borrow(_key(asked), plan)


def _key(asked: Asked) -> str:
    """Says what is meant, without tags or numbers that may mean something else tomorrow."""
    base = asked.path.base
    ancestor = asked.ancestor
    return document_digest(
        {
            "base": [base.name, base.digest, base.files_digest, base.table_digest],
            "links": [[link.reference, link.digest] for link in asked.path.links],
            "since": None if ancestor is None else [[link.reference, link.digest] for link in ancestor.links],
            "options": asked.options.model_copy(update={"since": None}).model_dump(mode="json"),
        }
    )


def _published_file(asked: Asked, rendering: str, path: str) -> BlobPlace:
    """Where a published file is, without opening anything."""
    plan = make_plan(asked.path, asked.path.links[-1:], asked.ancestor, asked.options)
    _require_rendering(asked, plan.rendering, rendering)
    stored = asked.path.links[-1].files if asked.path.links else asked.path.base.files
    place = {file.path: file.place for file in stored}.get(path)
    if place is None:
        names = ", ".join(sorted(file.path for file in stored))
        raise NotFoundError(f"The artifact has no file {path!r}; it has {names}.")
    return place


def _require_rendering(asked: Asked, made: str, wanted: str) -> None:
    if made != wanted:
        raise UnavailableError(
            f"This service makes {asked.path.reference} as {made}, not as {wanted}: its arithmetic is another, or the "
            "reference meant another revision then. Ask for the plan again.",
            code="numerics",
        )
