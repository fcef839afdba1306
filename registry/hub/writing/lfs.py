"""Git LFS, as Hub clients send weights that are too large for a commit: where to, then the parts, then that is all."""

from __future__ import annotations

from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse

from registry.errors import UsageError
from registry.http.dependencies import service_of
from registry.http.payloads import chunks_of
from registry.http.request.context import context_of
from registry.hub.requests import RepoQueryParam
from registry.hub.writing.documents import Body, LargeObjects
from registry.hub.writing.repos import view_of
from registry.services.pushing.parts import LargeUpload, begin_large, put_large_part
from registry.services.pushing.repo import place_of

_TYPE: Final = "application/vnd.git-lfs+json"


def batch(query: RepoQueryParam, asked: Annotated[LargeObjects, Depends(Body(LargeObjects))]) -> JSONResponse:
    """Where the parts of some files go: to the store by presigned requests, or through the service."""
    if asked.operation != "upload":
        raise UsageError("Files are read by their addresses, and not by LFS: only the operation upload is served.")
    path = place_of(query.deployment, query.repo_id)
    place = f"{view_of(query.request)}/{query.repo_id}.git/info/lfs"
    objects = [_told(begin_large(query.deployment, path, one.oid, one.size), place) for one in asked.objects]
    return JSONResponse({"transfer": "basic", "objects": objects}, media_type=_TYPE)


def _told(large: LargeUpload, place: str) -> dict[str, Any]:
    known = {"oid": large.oid, "size": large.size}
    if large.upload is None:
        return known
    upload = large.upload
    urls = {
        number: upload.urls.get(number) or f"{place}/parts/{upload.id}/{number}"
        for number in range(1, upload.parts + 1)
    }
    if upload.parts == 1:
        return known | {"actions": {"upload": {"href": urls[1]}}}
    header = {"chunk_size": str(upload.part_size), **{f"{number:05}": url for number, url in urls.items()}}
    return known | {"actions": {"upload": {"href": f"{place}/complete/{upload.id}", "header": header}}}


async def part(request: Request) -> Response:
    """A part that goes through the service; without a token, as LFS clients send it."""
    context_of(request.scope).kind = "part"
    given = request.path_params
    if not given["number"].isascii() or not given["number"].isdigit() or "content-length" not in request.headers:
        raise UsageError("A part has a number, and needs the header Content-Length.")
    service = service_of(request)
    await anyio.to_thread.run_sync(
        put_large_part,
        service.registry.deployment,
        given["upload"],
        int(given["number"][:9]),
        chunks_of(request),
        limiter=service.part_threads,
    )
    return Response(headers={"ETag": f'"{given["upload"]}-{given["number"]}"'})


def complete() -> Response:
    """That all parts were sent: looked at when the commit names the file."""
    return Response()
