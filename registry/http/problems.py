"""Every error as application/problem+json (RFC 9457), whoever raised it: the services, the router, the parser."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from registry.errors import CODES, NotFoundError, RegistryError, UnavailableError, UsageError
from registry.http.exchange import Scope, exchange_of
from registry.http.limits import is_below_view
from registry.http.statuses import MALFORMED, retry_after, status_of
from registry.wire import API, Problem

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

    from registry.http.envelope import Receive, Send

MEDIA_TYPE: Final = "application/problem+json"
_MOST: Final = 1000  # characters of a sentence in a header
Refused = Callable[["Request", RegistryError], Awaitable[None]]

log = logging.getLogger(__name__)


class MalformedError(UsageError):
    """A payload or a parameter that the schema of its route refuses."""


def problem(error: RegistryError, request: str | None = None, *, status: int | None = None) -> Problem:
    """An error as it is sent."""
    if status is None:
        status = MALFORMED if isinstance(error, MalformedError) else status_of(error)
    return Problem(
        type=f"urn:adapter-registry:error:{error.code}",
        title=CODES[error.code],
        status=status,
        detail=str(error),
        code=error.code,
        kind=next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == RegistryError.__module__),
        request=request,
        retry_after=retry_after(status, error.code),
    )


def headers_of(told: Problem) -> dict[str, str]:
    """The headers that go with a problem."""
    headers = {"Cache-Control": "no-store"}
    if told.retry_after is not None:
        headers["Retry-After"] = str(told.retry_after)
    if told.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


class _ProblemResponse(Response):
    """A problem, in the form of what was asked: that is known when it leaves, whoever raised it."""

    def __init__(self, told: Problem, headers: Mapping[str, str] | None) -> None:
        every = {**headers_of(told), **(headers or {})}
        super().__init__(told.model_dump_json(), status_code=told.status, headers=every, media_type=MEDIA_TYPE)
        self._below_a_view = view_response(told, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_below_view(scope["path"]):
            await self._below_a_view(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def problem_response(told: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that tells a problem."""
    return _ProblemResponse(told, headers)


def view_response(told: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The same to a client of the Hub: it reads one header, or a field of the body."""
    every = {**headers_of(told), "X-Error-Message": in_a_header(told.detail), **(headers or {})}
    return JSONResponse({"error": told.detail}, status_code=told.status, headers=every)


def in_a_header(sentence: str) -> str:
    """One line of what a header may hold."""
    line = " ".join(sentence.encode("ascii", "replace").decode().split())[:_MOST]
    return "".join(char if char.isprintable() else "?" for char in line)


def unexpected() -> UnavailableError:
    """What a client is told of a bug: where to look, and nothing of the inside."""
    return UnavailableError(
        "The service met something that should never happen; its log has more under the id of this request.",
        code="unexpected",
    )


def no_route(method: str, path: str) -> NotFoundError:
    """The error of an address that nothing answers at."""
    return NotFoundError(f"There is nothing at {method} {path}: the routes are under {API}, see {API}/openapi.json.")


def install(app: FastAPI, refused: Refused) -> None:
    """Let every error of the app leave as a problem; ``refused`` is told what was not allowed."""

    async def of_registry(request: Request, error: Any) -> Response:
        await refused(request, error)
        told = problem(error, exchange_of(request.scope).request)
        if told.status == 500:
            log.error("%s", error, extra={"request": told.request, "code": told.code})
        return problem_response(told)

    async def of_router(request: Request, error: Any) -> Response:
        return _of_router(request, error)

    async def of_parser(request: Request, error: Any) -> Response:
        return problem_response(problem(MalformedError(_malformed(error)), exchange_of(request.scope).request))

    app.add_exception_handler(RegistryError, of_registry)
    app.add_exception_handler(HTTPException, of_router)
    app.add_exception_handler(RequestValidationError, of_parser)


def _of_router(request: Request, error: HTTPException) -> Response:
    id_ = exchange_of(request.scope).request
    path = request.url.path
    if error.status_code == 404:
        return problem_response(problem(no_route(request.method, path), id_))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        sentence = f"{request.method} is not possible at {path}; possible: {allowed or 'see the API description'}."
        return problem_response(problem(UsageError(sentence), id_, status=405), error.headers)
    sentence = f"The request is malformed: {error.detail}."
    return problem_response(problem(UsageError(sentence), id_, status=error.status_code), error.headers)


def _malformed(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(word) for word in first["loc"])
    return f"The request is malformed at {where}: {str(first['msg']).lower()}."
