"""Responses with files of artifacts: redirected to the store, copied from it, or computed while they are streamed.

Presigned URLs are used where clients can reach the store. Figures and first values of a tensor are read from a bounded
range of a file, which may not exist yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from fastapi import Request, Response

from registry.digest import BlobRef, document_digest
from registry.errors import IntegrityError, NotFoundError, UnavailableError
from registry.files.header import SIZES, TensorEntry
from registry.http.bodies import FileBody
from registry.http.conditional import has
from registry.http.dependencies import Service, service_of
from registry.reference import Reference
from registry.schemas.artifacts import KINDS
from registry.services.artifacts.build import check_kept
from registry.services.artifacts.opened import Asked, etag, open_asked
from registry.tensors.arithmetic.summary import Summary, Values, summarised, values_of
from registry.tensors.artifacts.artifact import SharedPieces
from registry.tensors.lineage.plan import make_plan

if TYPE_CHECKING:
    from registry.digest import StoredFile
    from registry.services.deployment import Deployment
    from registry.tensors.artifacts.artifact import Artifact


_SIGNED_AT_LEAST: Final = 15 * 60  # seconds
_SIGNED_AT_MOST: Final = 7 * 24 * 3600  # what S3 allows
_SLOWEST: Final = 1 << 20  # bytes a second: the slowest download that a signature outlives


def redirect_to_store(
    request: Request, deployment: Deployment, blob: BlobRef, etag: str, name: str, *, status: int = 307
) -> Response | None:
    """A redirect to a presigned URL; None if the service has to send the bytes itself."""
    if request.method != "GET" or has(request.headers, etag):
        return None
    lasts = min(max(_SIGNED_AT_LEAST, blob.size // _SLOWEST), _SIGNED_AT_MOST)
    url = deployment.blobs.sign_get(blob, lasts, name.rpartition("/")[2])
    if url is None:
        return None
    headers = {"Location": url, "Cache-Control": "no-store", "ETag": f'"{etag}"'}
    return Response(status_code=status, headers=headers)


_PLAN: Final = 64 << 10
_TENSOR: Final = 2 << 10

CheckRendering = Callable[[str], None]
"""Raises unless a rendering is the requested one."""


def _any(rendering: str) -> None:
    del rendering


@dataclass(frozen=True)
class ArtifactHandle:
    """A reference-counted open artifact; `close` releases it."""

    artifact: Artifact
    close: Callable[[], None]
    forget: Callable[[], None]  # evict it from the cache

    def chunks(self, path: str, *range_: int, **how: Any) -> Iterator[memoryview]:
        """See `ArtifactFile.chunks`; evicts the artifact when bytes are damaged, since the blob may be repaired."""
        try:
            yield from self.artifact.file(path).chunks(*range_, **how)
        except IntegrityError:
            self.forget()
            raise


def open_artifact(service: Service, deployment: Deployment, asked: Asked) -> ArtifactHandle:
    """The open artifact of a request; planned once for all concurrent requests and cached for the next range."""

    def plan() -> Artifact:
        if asked.options.rank is None and asked.options.max_error is None:
            return open_asked(deployment, asked)
        with service.truncations.slot():  # the ranks are found now, which is the work
            return open_asked(deployment, asked)

    handle = service.memory.acquire("plan", _key(asked), plan, _weigh, end=_close)
    try:
        artifact = handle.result()
        if asked.materialised is None:  # else another machine may have made it
            service.renderings.note(artifact.rendering, Reference.parse(asked.path.reference).path)
        return ArtifactHandle(artifact, handle.close, partial(service.memory.forget, "plan", _key(asked)))
    except BaseException:
        handle.close()
        raise


def _weigh(artifact: Artifact) -> int:
    """Approximate bytes of a plan in memory: proportional to its tensors, with the documents that were made."""
    files = artifact.files.values()
    documents = sum(file.size for file in files if file.header is None and file.digest is None)
    return _PLAN + documents + sum(_TENSOR * len(file.header.entries) for file in files if file.header)


def _close(artifact: Artifact) -> None:
    artifact.close()


@dataclass(frozen=True)
class ListedFile:
    """A file of an artifact, as listings show it."""

    path: str
    size: int
    etag: str
    digest: str | None = None  # sha256, if the bytes are a stored blob
    text: bytes | None = None  # the bytes of a small document, made while planning


def file_names(service: Service, deployment: Deployment, asked: Asked) -> frozenset[str]:
    """The names of the files of the requested artifact."""
    stored = _stored(deployment, asked)
    if stored is not None:
        return frozenset(file.path for file in stored.files)
    handle = open_artifact(service, deployment, asked)
    try:
        return frozenset(handle.artifact.files)
    finally:
        handle.close()


def listing(service: Service, deployment: Deployment, asked: Asked) -> tuple[ListedFile, ...]:
    """The files of the requested artifact, by name. Nothing is opened if all of them are stored."""
    stored = _stored(deployment, asked)
    if stored is not None:
        return tuple(
            ListedFile(file.path, file.size, etag(stored.rendering, file.path), file.digest)
            for file in sorted(stored.files, key=lambda file: file.path)
        )
    handle = open_artifact(service, deployment, asked)
    try:
        return tuple(
            ListedFile(
                path,
                file.size,
                etag(handle.artifact.rendering, path),
                file.digest,
                None if file.header is not None or file.digest is not None else file.read(),
            )
            for path, file in handle.artifact.files.items()
        )
    finally:
        handle.close()


def file_answer(
    request: Request,
    deployment: Deployment,
    asked: Asked,
    path: str,
    *,
    check: CheckRendering = _any,
    redirect: int = 307,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A file of the requested artifact, whole or by a single range.

    Args:
        request: a GET or HEAD.
        deployment: with the rights of the principal.
        asked: the resolved artifact.
        path: of the file.
        check: gets the rendering before anything is sent.
        redirect: status of a redirect to the store.
        headers: additional response headers.

    Raises:
        NotFoundError: the artifact has no such file.
    """
    stored = _stored(deployment, asked, check)
    if stored is not None:
        return _from_store(request, deployment, stored, path, redirect, headers)
    service = service_of(request)
    handle = open_artifact(service, deployment, replace(asked, materialised=None))
    try:
        check(handle.artifact.rendering)
        file = handle.artifact.file(path)
    except BaseException:
        handle.close()
        raise
    body = FileBody(
        etag=etag(handle.artifact.rendering, path),
        size=file.size,
        chunks=partial(handle.chunks, path, shared=SharedPieces(service.memory, handle.artifact.rendering, path)),
        close=handle.close,
        kind="artifact",
        name=path,
    )

    def admission(start: int, stop: int) -> str:
        return "computed" if file.is_costly(start, stop) else "copied"

    return service.bodies.answer(request, body, admission=admission, headers=headers)


@dataclass(frozen=True)
class _StoredArtifact:
    """A requested artifact whose files are all in the store."""

    asked: Asked
    rendering: str
    files: tuple[StoredFile, ...]

    def file(self, path: str) -> StoredFile:
        """The bytes of a file; raises `NotFoundError`."""
        found = next((file for file in self.files if file.path == path), None)
        if found is None:
            names = ", ".join(sorted(file.path for file in self.files))
            raise NotFoundError(f"The artifact has no file {path!r}; it has {names}.")
        return found


def _stored(deployment: Deployment, asked: Asked, check: CheckRendering = _any) -> _StoredArtifact | None:
    """Published files, or those of a materialisation; None if the bytes have to be computed.

    A materialisation with another rendering is skipped: a client that began with the bytes computed here continues with
    them.
    """
    kept = asked.materialised
    if kept is not None:
        try:
            check(kept.rendering)
        except (NotFoundError, UnavailableError):
            return None
        check_kept(deployment.artifact_blobs, asked.path, asked.options)
        return _StoredArtifact(asked, kept.rendering, kept.files)
    if not KINDS[asked.options.kind].is_verbatim:
        return None
    plan = make_plan(asked.path, asked.ancestor, asked.options)
    check(plan.rendering)
    return _StoredArtifact(asked, plan.rendering, asked.path.tip_files)


def _from_store(
    request: Request,
    deployment: Deployment,
    stored: _StoredArtifact,
    path: str,
    status: int,
    headers: Mapping[str, str] | None,
) -> Response:
    """Redirect to the store, or copy; blobs are opened only for a copy."""
    blob, tag = stored.file(path), etag(stored.rendering, path)
    response = redirect_to_store(request, deployment, blob, tag, path, status=status)
    if response is not None:
        response.headers.update(headers or {})
        return response
    service = service_of(request)
    handles = ExitStack()

    def chunks(start: int, stop: int) -> Iterator[memoryview]:
        handle = open_artifact(service, deployment, stored.asked)
        handles.callback(handle.close)
        yield from handle.chunks(path, start, stop, lanes=2)

    body = FileBody(etag=tag, size=blob.size, chunks=chunks, close=handles.close, kind="artifact", name=path)
    return service.bodies.answer(request, body, admission="copied", headers=headers)


def _key(asked: Asked) -> str:
    """Cache key made of digests only: tags and numbers may move."""
    base = asked.path.base
    ancestor = asked.ancestor
    return document_digest(
        {
            "base": [base.name, base.hub_name, base.digest, base.files_digest, base.table_digest],
            "links": [[link.reference, link.digest] for link in asked.path.links],
            "since": None if ancestor is None else [[link.reference, link.digest] for link in ancestor.links],
            "options": asked.options.model_copy(update={"since": None}).model_dump(mode="json"),
            "materialised": None if asked.materialised is None else asked.materialised.id,
        }
    )


MOST_READ: Final = 4 << 20
"""Bytes of values that one look reads at most."""
_GRID: Final = 8  # rows and columns of first values


@dataclass(frozen=True)
class Look:
    """What is seen of a tensor.

    Args:
        sampled: of how many of its elements the figures are: the first ones.
        stop: where in the file the last of these ends.
        is_computed: whether the bytes were computed, and are not stored.
        summary: figures; None of complex values.
        rows: the first values, each row with its index; a vector is written in lines.
    """

    sampled: int
    stop: int
    is_computed: bool
    summary: Summary | None
    rows: tuple[tuple[str, list[str]], ...]


def look_at(service: Service, handle: ArtifactHandle, path: str, entry: TensorEntry) -> Look:
    """Look at a tensor of a file of an open artifact.

    Raises:
        UnavailableError: ``busy``, too many look at tensors now.
    """
    sampled = min(entry.elements, MOST_READ // SIZES[entry.dtype])
    stop = entry.start + sampled * SIZES[entry.dtype]
    shared = SharedPieces(service.memory, handle.artifact.rendering, path)
    with service.looks.slot():
        values = values_of(entry.dtype, b"".join(handle.chunks(path, entry.start, stop, shared=shared)))
        summary = summarised(values)
    is_computed = handle.artifact.file(path).is_costly(entry.start, stop)
    return Look(sampled, stop, is_computed, summary, tuple(_rows(values, entry.shape)))


def _rows(values: Values, shape: tuple[int, ...]) -> Iterator[tuple[str, list[str]]]:
    is_vector = len(shape) < 2
    outer, width = ((-(-len(values) // _GRID),), _GRID) if is_vector else (shape[:-1], shape[-1])
    for row in range(min(_GRID, math.prod(outer))):
        some = values[row * width : row * width + min(width, _GRID)]
        if len(some):
            index = str(row * width) if is_vector else ", ".join(str(at) for at in np.unravel_index(row, outer))
            yield index, [_told(value) for value in some.tolist()]


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
