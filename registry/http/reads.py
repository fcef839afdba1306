"""Routes that read: everything that a request needs is done in one worker thread, and its answer is written there.

FastAPI solves each dependency of a route in a thread of its own, and each change of threads takes longer than a lookup.
Here the same dependencies are solved in the same order, one after the other. So they have to be plain functions.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import cached_property, partial
from typing import Any, Final

import anyio.to_thread
from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from registry.http.payloads import JSON

READS: Final = frozenset({"GET", "HEAD"})
Values = dict[str, Any]


class ReadRoute(APIRoute):
    """A route that reads is answered in one worker thread; any other as FastAPI does it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        if not set(self.methods or ()) <= READS:
            return super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await anyio.to_thread.run_sync(partial(self._answer, request))

        return handle

    def _answer(self, request: Request) -> Response:
        values, errors = _Solver(request).values(self.dependant)
        if errors:
            raise RequestValidationError(errors)
        answer = self.dependant.call(**values) if self.dependant.call else None
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
        for fields, given in (
            (dependant.path_params, self._request.path_params),
            (dependant.query_params, self._request.query_params),
        ):
            if fields:
                values, wrong = request_params_to_args(fields, given)
                found |= values
                errors += wrong
        if dependant.request_param_name is not None:
            found[dependant.request_param_name] = self._request
        return found, errors
