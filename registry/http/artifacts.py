"""Files of artifacts as answers, for every face: copied from the store, or computed while they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fastapi import Request, Response

from registry.digest import document_digest
from registry.errors import IntegrityError, NotFoundError, UnavailableError
from registry.http.acting import Service, service_of
from registry.http.bodies import Bytes
from registry.http.redirects import redirected
from registry.services.artifacts import make_plan
from registry.services.handing_out import Asked, etag, open_asked
from registry.tensors.artifacts.pieces import SharedPieces

if TYPE_CHECKING:
    from registry.services.deployment import Deployment
    from registry.services.lineage import PathFile
    from registry.storage.place import BlobPlace
    from registry.tensors.artifacts.artifact import Artifact

_PLAN: Final = 64 << 10
_TENSOR: Final = 2 << 10

CheckRendering = Callable[[str], None]
"""Raises where the bytes of a rendering are not those that were asked for."""


def _any(rendering: str) -> None:
    del rendering


@dataclass(frozen=True)
class Loan:
    """An open artifact, until it is given back."""

    artifact: Artifact
    close: Callable[[], None]
    forget: Callable[[], None]  # let the next one open it anew

    def chunks(self, path: str, *range_: int, **how: Any) -> Iterator[memoryview]:
        """Bytes of a file, as `ArtifactFile.chunks` gives them; when they are damaged, they may be repaired soon."""
        try:
            yield from self.artifact.file(path).chunks(*range_, **how)
        except IntegrityError:
            self.forget()
            raise


def borrow(service: Service, deployment: Deployment, asked: Asked) -> Loan:
    """The open artifact of what was asked for: planned once for all who ask for it, kept open for the next range."""

    def plan() -> Artifact:
        if asked.options.rank is None and asked.options.max_error is None:
            return open_asked(deployment, asked)
        with service.truncations.seat():  # the ranks are found now, which is the work
            return open_asked(deployment, asked)

    loan = service.memory.borrow("plan", _key(asked), plan, _weigh, end=_close)
    try:
        return Loan(loan.result(), loan.close, partial(service.memory.forget, "plan", _key(asked)))
    except BaseException:
        loan.close()
        raise


def _weigh(artifact: Artifact) -> int:
    """About the bytes of a plan in memory: what it says of each tensor."""
    return _PLAN + sum(_TENSOR * len(file.header.entries) for file in artifact.files.values() if file.header)


def _close(artifact: Artifact) -> None:
    artifact.close()


@dataclass(frozen=True)
class Listed:
    """A file of what was asked for, as lists of files show it."""

    path: str
    size: int
    etag: str
    digest: str | None = None  # of the bytes, where they are those of a stored blob
    text: bytes | None = None  # the bytes, where they were written while planning: a small document


def file_names(service: Service, deployment: Deployment, asked: Asked) -> frozenset[str]:
    """The names of the files of what was asked for."""
    stored = _stored(asked)
    if stored is not None:
        return frozenset(file.path for file in stored.files)
    loan = borrow(service, deployment, asked)
    try:
        return frozenset(loan.artifact.files)
    finally:
        loan.close()


def listing(service: Service, deployment: Deployment, asked: Asked) -> tuple[Listed, ...]:
    """The files of what was asked for, by name. Of what is stored nothing is opened."""
    stored = _stored(asked)
    if stored is not None:
        return tuple(
            Listed(file.path, file.place.size, etag(stored.rendering, file.path), file.place.digest)
            for file in sorted(stored.files, key=lambda file: file.path)
        )
    loan = borrow(service, deployment, asked)
    try:
        return tuple(
            Listed(
                path,
                file.size,
                etag(loan.artifact.rendering, path),
                file.digest,
                None if file.header is not None or file.digest is not None else file.read(),
            )
            for path, file in loan.artifact.files.items()
        )
    finally:
        loan.close()


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
    """A file of what was asked for, whole or by a single range.

    Args:
        request: a GET or HEAD.
        deployment: with the rights of the one who asks.
        asked: what was looked up.
        path: of the file.
        check: told the rendering before anything is sent.
        redirect: status of an answer that sends the client to the store.
        headers: of the answer, beside its own.

    Raises:
        NotFoundError: the artifact has no such file.
    """
    stored = _stored(asked, check)
    if stored is not None:
        return _from_store(request, deployment, stored, path, redirect, headers)
    service = service_of(request)
    loan = borrow(service, deployment, replace(asked, materialised=None))
    try:
        check(loan.artifact.rendering)
        file = loan.artifact.file(path)
    except BaseException:
        loan.close()
        raise
    body = Bytes(
        etag=etag(loan.artifact.rendering, path),
        size=file.size,
        chunks=partial(loan.chunks, path, shared=SharedPieces(service.memory, loan.artifact.rendering, path)),
        close=loan.close,
        kind="artifact",
        name=path,
    )

    def admission(start: int, stop: int) -> str:
        return "computed" if file.is_costly(start, stop) else "copied"

    return service.bodies.answer(request, body, admission=admission, headers=headers)


@dataclass(frozen=True)
class _Stored:
    """What was asked for, where all of it is in the store."""

    asked: Asked
    rendering: str
    files: tuple[PathFile, ...]

    def place(self, path: str) -> BlobPlace:
        """The bytes of a file; raises `NotFoundError`."""
        found = next((file.place for file in self.files if file.path == path), None)
        if found is None:
            names = ", ".join(sorted(file.path for file in self.files))
            raise NotFoundError(f"The artifact has no file {path!r}; it has {names}.")
        return found


def _stored(asked: Asked, check: CheckRendering = _any) -> _Stored | None:
    """Published files, or those of a materialisation; None where the bytes have to be computed.

    One whose rendering is not asked for is passed over: who began with the bytes that this machine computes goes on
    with them.
    """
    kept = asked.materialised
    if kept is not None:
        try:
            check(kept.rendering)
        except UnavailableError:
            return None
        return _Stored(asked, kept.rendering, kept.files)
    if asked.options.kind != "published":
        return None
    plan = make_plan(asked.path, asked.path.links[-1:], asked.ancestor, asked.options)
    check(plan.rendering)
    return _Stored(asked, plan.rendering, _published(asked))


def _published(asked: Asked) -> tuple[PathFile, ...]:
    """The files that were published or added."""
    return asked.path.links[-1].files if asked.path.links else asked.path.base.files


def _from_store(
    request: Request,
    deployment: Deployment,
    stored: _Stored,
    path: str,
    status: int,
    headers: Mapping[str, str] | None,
) -> Response:
    """A stored file: the client is sent to the store, or gets a copy. Only who reads bytes here has anything opened."""
    place, tag = stored.place(path), etag(stored.rendering, path)
    response = redirected(request, deployment, place, tag, path, status=status)
    if response is not None:
        response.headers.update(headers or {})
        return response
    service = service_of(request)
    loans = ExitStack()

    def chunks(start: int, stop: int) -> Iterator[memoryview]:
        loan = borrow(service, deployment, stored.asked)
        loans.callback(loan.close)
        yield from loan.chunks(path, start, stop, lanes=2)

    body = Bytes(etag=tag, size=place.size, chunks=chunks, close=loans.close, kind="artifact", name=path)
    return service.bodies.answer(request, body, admission="copied", headers=headers)


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
            "materialised": None if asked.materialised is None else asked.materialised.id,
        }
    )
