"""The routes of the views: the same for each, below the address of the view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Request

from registry.hub.asking import Acting
from registry.hub.errors import HubRoute, MissingError
from registry.hub.files import resolve
from registry.hub.lists import commits, harnesses, model_info, paths_info, refs, tree
from registry.wire import VIEWS

_MODEL: Final = "/api/models/{namespace}/{name}"
_ANY: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def nothing(registry: Acting, request: Request) -> None:
    """What is asked for at an address that a view does not have."""
    del registry  # strangers are not told which addresses there are
    sentence = (
        f"There is nothing at {request.method} {request.url.path[:256]}: the view is read-only, and has models only."
    )
    raise MissingError(sentence, "RepoNotFound")


_ROUTES: Final[tuple[tuple[tuple[str, ...], str, Callable[..., Any]], ...]] = (
    (("GET", "HEAD"), "/{namespace}/{name}/resolve/{revision}/{path:path}", resolve),
    (("GET",), "/api/agent-harnesses", harnesses),
    (("GET",), _MODEL, model_info),
    (("GET",), _MODEL + "/revision/{revision:path}", model_info),
    (("GET",), _MODEL + "/tree/{revision}", tree),
    (("GET",), _MODEL + "/tree/{revision}/{path:path}", tree),
    (("GET",), _MODEL + "/refs", refs),
    (("POST",), _MODEL + "/paths-info/{revision:path}", paths_info),
    (("GET",), _MODEL + "/commits/{revision:path}", commits),
    (_ANY, "/{path:path}", nothing),
)


def _router(view: str) -> APIRouter:
    router = APIRouter(prefix=f"/{view}", route_class=HubRoute, include_in_schema=False)
    for methods, path, endpoint in _ROUTES:
        router.add_api_route(path, endpoint, methods=list(methods), response_model=None)
    return router


VIEW_ROUTERS: Final = tuple(map(_router, VIEWS))
"""One for each view."""
