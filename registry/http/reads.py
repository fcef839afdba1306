"""Routes that read: everything that a request needs is done in one worker thread, and its answer is written in it.

FastAPI solves each dependency of a route in a thread of its own, and each change of threads takes longer than a lookup:
reads take 1.3 to 1.8 times the CPU that way (decision 76). Here the same dependencies are called in the same order, one
after the other, as signatures say (`registry.http.payloads.Call`). So they have to be plain functions. And FastAPI's
routers look through all routes; `ReadDispatch` finds the same route by the first part of its address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from registry.http.context import App, Receive, Scope, Send, context_of
from registry.http.dependencies import service_of
from registry.http.payloads import JSON, Call, call_of

READS: Final = frozenset({"GET", "HEAD"})
Handle = Callable[[Request], Coroutine[Any, Any, Response]]


class ReadRoute(APIRoute):
    """A route that reads is answered in one worker thread; any other as FastAPI does it."""

    @property
    def reads(self) -> bool:
        """Whether it only reads."""
        return bool(self.methods) and set(self.methods or ()) <= READS

    def get_route_handler(self) -> Handle:
        if not self.reads:
            return super().get_route_handler()
        call = call_of(self)

        async def handle(request: Request) -> Response:
            return await service_of(request).readers.run(self._answer, call, request)

        return handle

    def _answer(self, call: Call, request: Request) -> Response:
        values, errors = call.values(request, {})
        if errors:
            raise RequestValidationError(errors)
        answer = self.endpoint(**values)
        if isinstance(answer, Response):
            return answer
        return Response(self._schema.dump_json(answer), status_code=self.status_code or 200, media_type=JSON)

    @cached_property
    def _schema(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.response_model)


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
            self._places = _places(scope["app"].state.routes)
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


def _places(routes: Iterable[APIRoute]) -> dict[str, _Place]:
    found: dict[str, _Place] = {}
    for route in routes:
        found.setdefault(route.path_format.split("/", 2)[1], _Place()).add(route)
    return found


def _handler_of(app: FastAPI, error: Exception) -> Callable[[Request, Exception], Awaitable[Response]] | None:
    return next((app.exception_handlers[kind] for kind in type(error).__mro__ if kind in app.exception_handlers), None)  # type: ignore[return-value]
