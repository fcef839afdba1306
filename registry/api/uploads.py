"""Uploads: bytes on their way, under an id, in parts; what broke off goes on where it was."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Path, Request, Response

from registry.api.openapi import problems
from registry.api.parameters import Id
from registry.errors import UsageError
from registry.http.context import context_of
from registry.http.dependencies import RequestRegistry, service_of
from registry.http.payloads import JsonBody, chunks_of
from registry.schemas.protocol import API
from registry.schemas.transfer import Upload, UploadRequest
from registry.services.intake import uploads

router = APIRouter(prefix=API, tags=["transfer"])

PartNumber = Annotated[int, Path(ge=1, le=10_000, examples=[1])]


@router.post("/uploads", status_code=201, responses=problems(400, 408))
def begin_upload(
    registry: RequestRegistry, asked: Annotated[UploadRequest, Depends(JsonBody(UploadRequest))]
) -> Upload:
    """Start an upload, or resume an open one of the same bytes."""
    return uploads.begin_upload(registry.deployment, asked)


@router.get("/uploads/{id}", responses=problems(404))
def get_upload(registry: RequestRegistry, id: Id) -> Upload:  # noqa: A002 - the name of the parameter of the route
    """The current state of an upload, with fresh addresses."""
    return uploads.get_upload(registry.deployment, id)


@router.delete("/uploads/{id}", status_code=204, response_class=Response, responses=problems(404))
def drop_upload(registry: RequestRegistry, id: Id) -> None:  # noqa: A002
    """Cancel an upload and discard what was sent."""
    uploads.drop_upload(registry.deployment, id)


@router.put(
    "/uploads/{id}/parts/{number}",
    status_code=204,
    response_class=Response,
    responses=problems(400, 404, 408),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_part(registry: RequestRegistry, request: Request, id: Id, number: PartNumber) -> Response:  # noqa: A002
    """One part, if uploads go through the service; its length is in Content-Length."""
    if "content-length" not in request.headers:
        raise UsageError("A part needs the header Content-Length, so that a truncated part is detected.")
    context_of(request.scope).kind = "part"
    # With threads of their own: a client that sends slowly must not keep others from being answered.
    await anyio.to_thread.run_sync(
        uploads.put_part,
        registry.deployment,
        id,
        number,
        chunks_of(request),
        limiter=service_of(request).part_threads,
    )
    return Response(status_code=204)
