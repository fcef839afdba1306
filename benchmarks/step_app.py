"""A constant answer given by more and more of our service, up to the read whose answer it is.

python -m benchmarks.step_app STEP FILE PORT DATABASE STORE
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Response

from benchmarks.bare_app import answering
from registry.api import routes as about
from registry.app import service_app
from registry.http.dependencies import ReaderThreads, RequestRegistry
from registry.http.limits import BoundsMiddleware, Limits
from registry.http.metrics import Metrics
from registry.http.middleware import RequestMiddleware, log_to_stderr
from registry.http.payloads import JSON
from registry.http.reads import ReadRoute
from registry.http.server import Server, listen
from registry.http.service import build
from registry.schemas.protocol import API
from registry.services.local import LocalRegistry
from registry.storage.filesystem import FilesystemDriver

ADDRESS: Final = "/answer"
RESOLVE: Final = f"{API}/resolve?ref={{}}"


def connection(body: bytes, _registry: LocalRegistry) -> Any:
    """Our connection, with its time limits and its strict parsing."""
    return answering(body)


def context(body: bytes, _registry: LocalRegistry) -> Any:
    """Bounds, request context, headers, log and metrics."""
    return _around(answering(body))


def thread(body: bytes, _registry: LocalRegistry) -> Any:
    """A change to a reading thread and back."""
    readers = ReaderThreads(Limits.threads)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answer = await readers.run(answering, body)
        await answer(scope, receive, send)

    return _around(app)


def token(body: bytes, registry: LocalRegistry) -> Any:
    """The route, and the rights of a token."""
    router = APIRouter(route_class=ReadRoute)

    def answer(registry: RequestRegistry) -> Response:
        del registry
        return Response(body, media_type=JSON)

    router.add_api_route(ADDRESS, answer, response_model=None)
    return build(registry, [router, about.health])


def read(_body: bytes, registry: LocalRegistry) -> Any:
    """The service."""
    return service_app(registry)


def _around(app: Any) -> Any:
    bounded = BoundsMiddleware(app, limits=Limits())
    return RequestMiddleware(bounded, limits=Limits(), metrics=Metrics(dict))


STEPS: Final[dict[str, Callable[[bytes, LocalRegistry], Any]]] = {
    step.__name__: step for step in (connection, context, thread, token, read)
}
"""Each with all that is in the one before it."""


def main(step: str, file: str, port: str, database: str, store: str) -> None:
    """Answer until a signal ends this process."""
    with closing(LocalRegistry.of(database, FilesystemDriver(Path(store)), actor="bench")) as registry:
        app = STEPS[step](Path(file).read_bytes(), registry)
        log_to_stderr()
        server = Server(app, Limits())
        server.config.lifespan = "auto"  # the first steps know none
        server.run([listen("127.0.0.1", int(port))])


if __name__ == "__main__":
    main(*sys.argv[1:])
