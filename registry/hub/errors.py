"""Errors in the form of the Hub: a status, a code that says what is missing, and one sentence.

A refusal of what Hub clients write has a status that they neither repeat nor explain in words of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal

import anyio.to_thread
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from registry.errors import (
    AccuracyError,
    IntegrityError,
    InvalidAdapterError,
    InvalidBaseError,
    NotAllowedError,
    NotFoundError,
    RegistryError,
    UnavailableError,
    UsageError,
)
from registry.http.bodies import BodyResponse
from registry.http.context import Receive, Scope, Send, context_of
from registry.http.dependencies import service_of
from registry.http.errors import MalformedError, headers_of, in_a_header, problem, status_of
from registry.http.reads import ReadRoute
from registry.schemas.protocol import Problem

What = Literal["RepoNotFound", "RevisionNotFound", "EntryNotFound"]
COMMIT: Final = "X-Repo-Commit"
_HOW_TO_ASK: Final = " Hub clients read the token from HF_TOKEN."
_NAMING: Final = frozenset({"name", "path"})  # path parameters of routes that may name a repo
_MOST_TOPIC: Final = 256  # characters
_STATUSES: Final = {"busy": 429}  # a client that downloads waits on that, and fails at once on 503

log = logging.getLogger(__name__)


class MissingError(NotFoundError):
    """The requested repo, its revision, or a file in it does not exist in the view."""

    def __init__(self, message: str, what: What, *, commit: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.what = what
        self.commit = commit


class EmptyRepoError(MissingError):
    """A repo that this principal pushes to has no revision yet."""

    def __init__(self, repo_id: str, commit: str) -> None:
        super().__init__(f"{repo_id} has no revision yet: nothing is published there.", "RevisionNotFound")
        self.sha = commit


@contextmanager
def as_missing(what: What, commit: str | None = None) -> Iterator[None]:
    """Map errors of the requested thing to `MissingError`: the Hub's protocol has no other code for them."""
    try:
        yield
    except MissingError:
        raise
    except (NotFoundError, UsageError, InvalidAdapterError, InvalidBaseError, AccuracyError) as error:
        raise MissingError(str(error), what, commit=commit, code=error.code) from error


class HubRoute(ReadRoute):
    """A route of a view; errors are answered in the Hub's form."""

    async def refusal(self, request: Request, error: RegistryError) -> Response:
        """The response for an error."""
        return await error_answer(request, error)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                response = await handle(request)
            except RegistryError as error:
                return await self.refusal(request, error)
            return _Body(request, response) if isinstance(response, BodyResponse) else response

        return told


class _Body(Response):
    """A body whose first piece may still fail, before any of the response is sent."""

    def __init__(self, request: Request, body: BodyResponse) -> None:
        super().__init__(status_code=body.status_code)
        self._request = request
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._body(scope, receive, send)
        except RegistryError as error:
            response = await error_answer(self._request, _of_values(error))
            await response(scope, receive, send)


def _of_values(error: RegistryError) -> RegistryError:
    """Map errors that only an adapter's values show, such as division by a zero norm, to a missing revision."""
    if isinstance(error, InvalidAdapterError):
        return MissingError(str(error), "RevisionNotFound", code=error.code)
    return error


async def error_answer(request: Request, error: RegistryError) -> Response:
    """The response for an error; denials are recorded as events, as everywhere."""
    if isinstance(error, NotAllowedError):
        await anyio.to_thread.run_sync(service_of(request).denials.note, request, error)
    id_ = context_of(request.scope).request
    told = problem(error, id_, status=404 if isinstance(error, MissingError) else _STATUSES.get(error.code))
    if told.status == 500:
        log.error("%s", error, extra={"request": id_, "code": told.code})
    elif error.outside is not None:
        log.warning("%s", error, extra={"request": id_, "code": told.code})
    if told.code == "bad_token":
        told = told.model_copy(update={"detail": told.detail + _HOW_TO_ASK})
    headers = _warning(request, told) if _has_reason(error) else {}
    if isinstance(error, MissingError):
        headers["X-Error-Code"] = error.what
        headers.update({COMMIT: error.commit} if error.commit else {})
    elif isinstance(error, NotAllowedError) and _NAMING & request.path_params.keys():
        headers["X-Error-Code"] = "RepoNotFound"
    return view_response(told, headers)


def view_response(told: Problem, headers: Mapping[str, str]) -> Response:
    """A problem for Hub clients, which read one header or a field of the body."""
    every = {**headers_of(told), "X-Error-Message": in_a_header(told.detail), **headers}
    return JSONResponse({"error": told.detail}, status_code=told.status, headers=every)


def _has_reason(error: RegistryError) -> bool:
    """Whether the message says more than that something does not exist, which clients also request just to find out."""
    if isinstance(error, MissingError):
        return error.what == "RevisionNotFound" and error.code != NotFoundError.default_code
    return isinstance(error, NotAllowedError)


def _warning(request: Request, told: Problem) -> dict[str, str]:
    """A warning is printed before the client's own error, which shows our sentence last or not at all."""
    repo_id = "/".join(request.path_params[part] for part in ("namespace", "name") if part in request.path_params)
    return warning(f"{told.code} {repo_id}", told.detail)


def warning(topic: str, sentence: str) -> dict[str, str]:
    """The header of a warning. Clients print one for each topic, which ends at the first semicolon."""
    return {"X-HF-Warning": f"{in_a_header(topic).replace(';', '?')[:_MOST_TOPIC]}; {in_a_header(sentence)}"}


REFUSED: Final = 422
"""Of whatever is wrong with what is pushed. With 404, clients would report that a repo does not exist."""
EXISTS: Final = 409
_BY_CODE: Final = {"tag_moved": EXISTS, "not_newest": 412}
_MOST_SUMMARY: Final = 120


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
        # Printed also if the error itself is swallowed, as by a trainer that pushes in the background.
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
