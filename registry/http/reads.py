"""Routes that read: everything that a request needs is done in one worker thread, and its answer is written there.

FastAPI solves each dependency of a route in a thread of its own, and each change of threads takes longer than a lookup.
Here the same dependencies are solved in the same order, one after the other. So they have to be plain functions. And
FastAPI's routers look through all routes; `ReadDispatch` finds the same route by the first part of its address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from registry.http.context import App, Receive, Scope, Send, context_of
from registry.http.dependencies import query_names, service_of
from registry.http.payloads import JSON

READS: Final = frozenset({"GET", "HEAD"})
Values = dict[str, Any]
Handle = Callable[[Request], Coroutine[Any, Any, Response]]


class ReadRoute(APIRoute):
    """A route that reads is answered in one worker thread; any other as FastAPI does it."""

    @property
    def reads(self) -> bool:
        """Whether it only reads."""
        return bool(self.methods) and set(self.methods or ()) <= READS

    @cached_property
    def query_names(self) -> frozenset[str]:
        """The query parameters that it accepts."""
        return query_names(self.dependant)

    def get_route_handler(self) -> Handle:
        if not self.reads:
            return super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await service_of(request).readers.run(self._answer, request)

        return handle

    def _answer(self, request: Request) -> Response:
        values, errors = _Solver(request).values(self.dependant)
        if errors:
            raise RequestValidationError(errors)
        answer = self.endpoint(**values)
        if isinstance(answer, Response):
            return answer
        return Response(self._schema.dump_json(answer), status_code=self.status_code or 200, media_type=JSON)

    @cached_property
    def _schema(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.response_model)


class _Solver:
    """The dependencies of one request, each called once."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._known: dict[Any, Any] = {}

    def values(self, dependant: Dependant) -> tuple[Values, list[Any]]:
        """What a function is called with, and the parameters that are no values."""
        found: Values = {}
        errors: list[Any] = []
        for needed in dependant.dependencies:
            if needed.call not in self._known:
                values, wrong = self.values(needed)
                errors += wrong
                if wrong or needed.call is None:
                    continue
                self._known[needed.call] = needed.call(**values)
            if needed.name is not None:
                found[needed.name] = self._known[needed.call]
        for place, fields in (("path", dependant.path_params), ("query", dependant.query_params)):
            for field in fields:
                given = self._request.path_params if place == "path" else self._request.query_params
                values, wrong = _value(field, place, given)
                found |= values
                errors += wrong
        if dependant.request_param_name is not None:
            found[dependant.request_param_name] = self._request
        return found, errors


def _value(field: ModelField, place: str, given: Mapping[str, Any]) -> tuple[Values, list[Any]]:
    """A parameter of one value, as all of ours are: FastAPI looks anew at each request what its type may be."""
    text = given.get(field.alias)
    if text is None and not field.field_info.is_required():
        return {field.name: field.get_default()}, []
    if text is None:
        return request_params_to_args((field,), given)  # which says in its words that it is missing
    value, errors = field.validate(text, loc=(place, field.alias))
    return {} if errors else {field.name: value}, errors


class ReadDispatch:
    """Middleware that finds the `ReadRoute` of a request as the routers would, and leaves all others to them."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._places: dict[str, _Place] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope) if scope["type"] == "http" and scope["method"] in READS else None
        if found is None:
            await self._app(scope, receive, send)
            return
        (route, handle), scope["path_params"] = found
        scope["route"], scope["endpoint"] = route, route.endpoint
        request = Request(scope, receive, send)
        try:
            response = await handle(request)
            await response(scope, receive, send)
        except Exception as error:
            tell = _handler_of(scope["app"], error)
            if tell is None or context_of(scope).status is not None:
                raise
            response = await tell(request, error)
            await response(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[_Found, Mapping[str, Any]] | None:
        if scope.get("root_path"):
            return None
        if self._places is None:
            self._places = _places(scope["app"])
        path: str = scope["path"]
        place = self._places.get(path.split("/", 2)[1] if path.startswith("/") else "")
        return None if place is None else place.find(path, scope["method"])


_Found = tuple[APIRoute, Handle]


class _Place:
    """The routes below the first part of an address, in their order."""

    def __init__(self) -> None:
        self._routes: list[tuple[APIRoute, Handle | None]] = []
        self._known: dict[tuple[str, str], _Found | None] = {}

    def add(self, route: APIRoute) -> None:
        """Add the next route."""
        handle = route.get_route_handler() if isinstance(route, ReadRoute) and route.reads else None
        self._routes.append((route, handle))
        if not route.param_convertors:
            for method in READS:
                for known, _ in self._matching(route.path_format, method):
                    self._known.setdefault((route.path_format, method), known)

    def find(self, path: str, method: str) -> tuple[_Found, Mapping[str, Any]] | None:
        """The first route for an address, if it is a `ReadRoute`, and the parameters in the address."""
        if (path, method) in self._known:
            known = self._known[path, method]
            return None if known is None else (known, {})
        found = next(self._matching(path, method), None)
        return None if found is None or found[0] is None else (found[0], found[1])

    def _matching(self, path: str, method: str) -> Iterator[tuple[_Found | None, Mapping[str, Any]]]:
        for route, handle in self._routes:
            match = route.path_regex.match(path) if method in (route.methods or ()) else None
            if match is not None:
                given = {name: route.param_convertors[name].convert(text) for name, text in match.groupdict().items()}
                yield None if handle is None else (route, handle), given


def _places(app: FastAPI) -> dict[str, _Place]:
    found: dict[str, _Place] = {}
    for route in all_routes(app.routes):
        found.setdefault(route.path_format.split("/", 2)[1], _Place()).add(route)
    return found


def all_routes(routes: Any) -> Iterator[APIRoute]:
    """The routes of an app, or of some routers, in their order."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if isinstance(route, APIRoute):
            yield route
        elif inner is not None:
            yield from all_routes(inner.routes)


def _handler_of(app: FastAPI, error: Exception) -> Callable[[Request, Exception], Awaitable[Response]] | None:
    return next((app.exception_handlers[kind] for kind in type(error).__mro__ if kind in app.exception_handlers), None)  # type: ignore[return-value]
