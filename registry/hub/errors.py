"""Errors as clients of the Hub read them: a status, a code that says what is missing, and one sentence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import anyio.to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute

from registry.errors import (
    AccuracyError,
    InvalidAdapterError,
    InvalidBaseError,
    NotAllowedError,
    NotFoundError,
    RegistryError,
    UsageError,
)
from registry.http.dependencies import service_of
from registry.http.request.context import Scope, context_of
from registry.http.request.errors import in_a_header, problem, view_response
from registry.http.request.middleware import Receive, Send
from registry.http.wire.bodies import BodyResponse
from registry.schemas.protocol import Problem

What = Literal["RepoNotFound", "RevisionNotFound", "EntryNotFound"]
COMMIT: Final = "X-Repo-Commit"
_HOW_TO_ASK: Final = " Clients of the Hub take the token from HF_TOKEN."
_NAMING: Final = frozenset({"name", "path"})  # parameters of the addresses that name a repo, or might
_MOST_TOPIC: Final = 256  # characters

log = logging.getLogger(__name__)


class MissingError(NotFoundError):
    """What was asked for is not in the view: the repo, its revision, or a file of that."""

    def __init__(self, message: str, what: What, *, commit: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.what = what
        self.commit = commit


@contextmanager
def as_missing(what: What, commit: str | None = None) -> Iterator[None]:
    """Tell what is wrong with the thing that was asked for as its being missing: the Hub has no other words for it."""
    try:
        yield
    except MissingError:
        raise
    except (NotFoundError, UsageError, InvalidAdapterError, InvalidBaseError, AccuracyError) as error:
        raise MissingError(str(error), what, commit=commit, code=error.code) from error


class HubRoute(APIRoute):
    """A route of a view, whose errors are answered in the Hub's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                response = await handle(request)
            except RegistryError as error:
                return await error_answer(request, error)
            return _Body(request, response) if isinstance(response, BodyResponse) else response

        return told


class _Body(Response):
    """A body whose first piece may still fail, before anything of the answer has left."""

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
    """What only the values of an adapter show, such as a division by a norm of zero: the revision can't be made."""
    if isinstance(error, InvalidAdapterError):
        return MissingError(str(error), "RevisionNotFound", code=error.code)
    return error


async def error_answer(request: Request, error: RegistryError) -> Response:
    """The answer that tells an error; what was not allowed is noted, as everywhere."""
    if isinstance(error, NotAllowedError):
        await anyio.to_thread.run_sync(service_of(request).denials.note, request, error)
    id_ = context_of(request.scope).request
    told = problem(error, id_, status=404 if isinstance(error, MissingError) else None)
    if told.status == 500:
        log.error("%s", error, extra={"request": id_, "code": told.code})
    if told.code == "bad_token":
        told = told.model_copy(update={"detail": told.detail + _HOW_TO_ASK})
    headers = _warning(request, told) if _has_reason(error) else {}
    if isinstance(error, MissingError):
        headers["X-Error-Code"] = error.what
        headers.update({COMMIT: error.commit} if error.commit else {})
    elif isinstance(error, NotAllowedError) and _NAMING & request.path_params.keys():
        headers["X-Error-Code"] = "RepoNotFound"
    return view_response(told, headers)


def _has_reason(error: RegistryError) -> bool:
    """Whether there is more to say than that something is not there, which clients also ask to find out."""
    if isinstance(error, MissingError):
        return error.what == "RevisionNotFound" and error.code != NotFoundError.default_code
    return isinstance(error, NotAllowedError)


def _warning(request: Request, told: Problem) -> dict[str, str]:
    """What clients print before an error of their own, which has the sentence at its end or not at all.

    They print one warning of each topic, which ends at the first semicolon.
    """
    repo_id = "/".join(request.path_params[part] for part in ("namespace", "name") if part in request.path_params)
    topic = in_a_header(f"{told.code} {repo_id}").replace(";", "?")[:_MOST_TOPIC]
    return {"X-HF-Warning": f"{topic}; {in_a_header(told.detail)}"}
