"""Files of artifacts as answers, for every face: copied from the store, or computed while they are sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request, Response

from registry.digest import document_digest
from registry.errors import NotFoundError
from registry.http.acting import Service, service_of
from registry.http.bodies import Bytes
from registry.http.redirects import redirected
from registry.http.shelf import Loan
from registry.services.artifacts import make_plan
from registry.services.handing_out import Asked, etag, open_asked

if TYPE_CHECKING:
    from registry.services.deployment import Deployment
    from registry.tensors.artifacts.artifact import Artifact

CheckRendering = Callable[[str], None]
"""Raises where the bytes of a rendering are not those that were asked for."""


def borrow(service: Service, deployment: Deployment, asked: Asked) -> Loan:
    """The open artifact of what was asked for; planned once for all who ask for it at about the same time."""

    def plan() -> Artifact:
        if asked.options.rank is None and asked.options.max_error is None:
            return open_asked(deployment, asked)
        with service.truncations.seat():  # the ranks are found now, which is the work
            return open_asked(deployment, asked)

    return service.shelf.borrow(_key(asked), plan)


def file_answer(
    request: Request,
    deployment: Deployment,
    asked: Asked,
    path: str,
    *,
    check: CheckRendering = lambda _: None,
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
    published = asked.options.kind == "published"
    if published:
        response = _from_store(request, deployment, asked, path, check, redirect)
        if response is not None:
            response.headers.update(headers or {})
            return response
    service = service_of(request)
    loan = borrow(service, deployment, asked)
    try:
        check(loan.artifact.rendering)
        file = loan.artifact.file(path)
    except BaseException:
        loan.close()
        raise
    body = Bytes(
        etag=etag(loan.artifact.rendering, path),
        size=file.size,
        chunks=partial(file.chunks, lanes=2 if published else None),
        close=loan.close,
        kind="artifact",
        name=path,
    )
    return service.bodies.answer(request, body, admission="copied" if published else "computed", headers=headers)


def _from_store(
    request: Request, deployment: Deployment, asked: Asked, path: str, check: CheckRendering, status: int
) -> Response | None:
    """Send the client to where a published file is, without opening anything; None where that can't be reached."""
    plan = make_plan(asked.path, asked.path.links[-1:], asked.ancestor, asked.options)
    check(plan.rendering)
    stored = asked.path.links[-1].files if asked.path.links else asked.path.base.files
    place = {file.path: file.place for file in stored}.get(path)
    if place is None:
        names = ", ".join(sorted(file.path for file in stored))
        raise NotFoundError(f"The artifact has no file {path!r}; it has {names}.")
    return redirected(request, deployment, place, etag(plan.rendering, path), path, status=status)


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
