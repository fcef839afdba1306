"""Every error as application/problem+json (RFC 9457), from services, router and parser alike.

The HTTP status of an error is that of its class, with exceptions by code.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from registry.errors import (
    CODES,
    AccuracyError,
    ConflictError,
    IntegrityError,
    InvalidAdapterError,
    InvalidBaseError,
    NotAllowedError,
    NotFoundError,
    NotInPlaceError,
    RegistryError,
    RetractedError,
    UnavailableError,
    UsageError,
)
from registry.http.context import Scope, context_of
from registry.schemas.protocol import API, Problem

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI, Request

    from registry.http.context import Receive, Send


STATUSES: Final[dict[type[RegistryError], int]] = {
    UsageError: 400,
    NotFoundError: 404,
    RetractedError: 410,
    InvalidAdapterError: 422,
    InvalidBaseError: 422,
    ConflictError: 409,
    IntegrityError: 500,
    NotAllowedError: 403,
    AccuracyError: 422,
    NotInPlaceError: 409,
    UnavailableError: 503,
}
BY_CODE: Final[dict[str, int]] = {
    "bad_token": 401,
    "upload_mismatch": 422,  # the client's bytes are wrong, not the store's
    "copy_mismatch": 422,  # what the client says of its origin is wrong
    "wrong_base": 422,
    "too_large": 413,
    "other_version": 400,
    "too_slow": 408,
    "unexpected": 500,
}
CLIENT_GONE: Final = 499
"""In log and metrics, if nobody is left to be answered: the client hung up, or read too little (as nginx has it)."""
MALFORMED: Final = 422  # a payload or a parameter that the schema of the route refuses
RETRY_AFTER: Final = 5  # seconds
RETRY_BUSY: Final = 1


def status_of(error: RegistryError) -> int:
    """The status of an error: that of its code, else that of the nearest class in `STATUSES`."""
    by_class = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)
    return BY_CODE.get(error.code, by_class)


def retry_after(status: int, code: str) -> int | None:
    """Seconds until a retry makes sense; None if a retry changes nothing."""
    if status not in {429, 503}:
        return None
    return RETRY_BUSY if code == "busy" else RETRY_AFTER


MEDIA_TYPE: Final = "application/problem+json"
_MOST: Final = 1000  # characters of a sentence in a header
Refused = Callable[["Request", RegistryError], Awaitable[None]]

log = logging.getLogger(__name__)


class MalformedError(UsageError):
    """A payload or parameter that does not match the schema of its route."""


def problem(error: RegistryError, request: str | None = None, *, status: int | None = None) -> Problem:
    """The problem document of an error."""
    if status is None:
        status = MALFORMED if isinstance(error, MalformedError) else status_of(error)
    return Problem(
        type=f"urn:adapter-registry:error:{error.code}",
        title=CODES[error.code],
        status=status,
        detail=error.outside or str(error),
        code=error.code,
        kind=next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == RegistryError.__module__),
        request=request,
        retry_after=retry_after(status, error.code),
    )


def headers_of(told: Problem) -> dict[str, str]:
    """The response headers of a problem."""
    headers = {"Cache-Control": "no-store"}
    if told.retry_after is not None:
        headers["Retry-After"] = str(told.retry_after)
    if told.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


class _ProblemResponse(Response):
    """A problem, in the form of the face that the request is for."""

    def __init__(self, told: Problem, headers: Mapping[str, str] | None) -> None:
        every = {**headers_of(told), **(headers or {})}
        super().__init__(told.model_dump_json(), status_code=told.status, headers=every, media_type=MEDIA_TYPE)
        self._told, self._more = told, headers or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        faces: Sequence[Face] = scope["app"].state.faces
        face = next((one for one in faces if one.is_for(scope)), None)
        if face is None:
            await super().__call__(scope, receive, send)
        else:
            await face.tell(scope, self._told, self._more)(scope, receive, send)


@dataclass(frozen=True)
class Face:
    """Routes whose users get errors in a form of their own, not as problem+json.

    Args:
        is_for: whether a request is one of these users', also if no such route exists.
        tell: a problem and additional headers as a response.
    """

    routers: Sequence[APIRouter]
    is_for: Callable[[Scope], bool]
    tell: Callable[[Scope, Problem, Mapping[str, str]], Response]


def problem_response(told: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The response of a problem."""
    return _ProblemResponse(told, headers)


def in_a_header(sentence: str) -> str:
    """A sentence as one valid header value."""
    line = " ".join(sentence.encode("ascii", "replace").decode().split())[:_MOST]
    return "".join(char if char.isprintable() else "?" for char in line)


def unexpected() -> UnavailableError:
    """The error that a client gets for a bug: where to look, and no internals."""
    return UnavailableError(
        "Unexpected error in the service; its log has the details under the id of this request.",
        code="unexpected",
    )


def no_route(method: str, path: str) -> NotFoundError:
    """The error of an address without a route."""
    return NotFoundError(
        f"There is no route {method} {path}: the pages begin at /, and the routes of the API are under {API}, see "
        f"{API}/openapi.json."
    )


def install(app: FastAPI, refused: Refused, faces: Sequence[Face] = ()) -> None:
    """Map every error of the app to a problem, in the form of a face if it is for one; ``refused`` gets denials."""
    app.state.faces = tuple(faces)

    async def of_registry(request: Request, error: Any) -> Response:
        await refused(request, error)
        told = problem(error, context_of(request.scope).request)
        if told.status == 500:
            log.error("%s", error, extra={"request": told.request, "code": told.code})
        elif error.outside is not None:
            log.warning("%s", error, extra={"request": told.request, "code": told.code})
        return problem_response(told)

    async def of_router(request: Request, error: Any) -> Response:
        return _of_router(request, error)

    async def of_parser(request: Request, error: Any) -> Response:
        return problem_response(problem(MalformedError(_malformed(error)), context_of(request.scope).request))

    async def of_bug(request: Request, error: Exception) -> Response:
        del error  # it goes on to `RequestMiddleware`, which logs it
        return problem_response(problem(unexpected(), context_of(request.scope).request))

    app.add_exception_handler(Exception, of_bug)
    app.add_exception_handler(RegistryError, of_registry)
    app.add_exception_handler(HTTPException, of_router)
    app.add_exception_handler(RequestValidationError, of_parser)


def _of_router(request: Request, error: HTTPException) -> Response:
    id_ = context_of(request.scope).request
    path = request.url.path
    if error.status_code == 404:
        return problem_response(problem(no_route(request.method, path), id_))
    if error.status_code == 405:
        allowed = _allowed(request, (error.headers or {}).get("Allow", ""))
        sentence = f"{request.method[:32]} is not allowed at {path}; allowed: {allowed or 'see the API description'}."
        return problem_response(problem(UsageError(sentence), id_, status=405), {"Allow": allowed})
    sentence = f"The request is malformed: {error.detail}."
    return problem_response(problem(UsageError(sentence), id_, status=error.status_code), error.headers)


def _allowed(request: Request, known: str) -> str:
    """The methods of all routes at an address: the router names those of the first."""
    found = set(known.replace(",", " ").split())
    for route in getattr(request.app.state, "routes", ()):
        if route.path_regex.match(request.scope["path"]):
            found |= route.methods
    return ", ".join(sorted(found))


def _malformed(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(word) for word in first["loc"])
    return f"The request is malformed at {where}: {str(first['msg']).lower()}."
