"""Refusals of what Hub clients write: a status that they neither repeat nor explain in words of their own."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import anyio.to_thread
from fastapi import Request, Response

from registry.errors import IntegrityError, NotAllowedError, RegistryError, UnavailableError
from registry.http.dependencies import service_of
from registry.http.request.context import context_of
from registry.http.request.errors import MalformedError, problem, status_of
from registry.hub.errors import HubRoute, view_response, warning

REFUSED: Final = 422
"""Of whatever is wrong with what is pushed. With 404, clients would report that a repo does not exist."""
EXISTS: Final = 409
_BY_CODE: Final = {"tag_moved": EXISTS, "not_newest": 412}
_MOST_SUMMARY: Final = 120

log = logging.getLogger(__name__)


class WriteRoute(HubRoute):
    """A route of a view that changes something."""

    async def refusal(self, request: Request, error: RegistryError) -> Response:
        reads = request.method in {"GET", "HEAD"}  # and writes nothing
        if not isinstance(error, UnavailableError) and not reads:  # else it is tried again
            note = partial(service_of(request).denials.note, tried=f"push {said_in(request)}".strip())
            await anyio.to_thread.run_sync(note, request, error)
        id_ = context_of(request.scope).request
        told = problem(error, id_, status=_status(error))
        if told.status == 500:
            log.error("%s", error, extra={"request": id_, "code": told.code})
        told = told.model_copy(update={"detail": f"{told.detail} ({told.code})"})
        # Printed also where the error itself is swallowed, as by a trainer that pushes in the background.
        # Not that something exists: clients ask just to find out.
        headers = {} if told.status == EXISTS else warning(f"{told.code} {said_in(request)}", told.detail)
        return view_response(told, headers)


def said_in(request: Request) -> str:
    """The repo of a request and the summary of its commit: clients print one warning of each topic."""
    repo_id = "/".join(request.path_params[part] for part in ("namespace", "name") if part in request.path_params)
    summary: str = getattr(request.state, "summary", "")
    return f"{repo_id} {summary[:_MOST_SUMMARY]}".strip()


def _status(error: RegistryError) -> int:
    if isinstance(error, NotAllowedError | UnavailableError | MalformedError):
        return 400 if isinstance(error, MalformedError) else status_of(error)
    if isinstance(error, IntegrityError):
        return status_of(error)
    return _BY_CODE.get(error.code, REFUSED)
