"""The routes of the views: the same for each, below the address of the view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.convertors import Convertor, register_url_convertor

from registry.hub.asking import Acting
from registry.hub.errors import HubRoute, MissingError
from registry.hub.files import resolve
from registry.hub.lists import commits, harnesses, model_info, paths_info, refs, tree
from registry.wire import VIEWS

_READ: Final = ("GET", "HEAD")
_MODEL: Final = "/api/models/{namespace}/{name}"
_ANY: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class _Rest(Convertor[str]):
    """The rest of an address, over line ends too, which ``path`` stops at: a view answers whatever is below it."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("rest", _Rest())


def nothing(registry: Acting, request: Request) -> None:
    """What is asked for at an address that a view does not have."""
    del registry  # strangers are not told which addresses there are
    sentence = (
        f"There is nothing at {request.method} {request.url.path[:256]}: the view is read-only, and has models only."
    )
    raise MissingError(sentence, "RepoNotFound")


_ROUTES: Final[tuple[tuple[tuple[str, ...], str, Callable[..., Any]], ...]] = (
    (_READ, "/{namespace}/{name}/resolve/{revision}/{path:rest}", resolve),
    (_READ, "/api/agent-harnesses", harnesses),
    (_READ, _MODEL, model_info),
    (_READ, _MODEL + "/revision/{revision:rest}", model_info),
    (_READ, _MODEL + "/tree/{revision}", tree),
    (_READ, _MODEL + "/tree/{revision}/{path:rest}", tree),
    (_READ, _MODEL + "/refs", refs),
    (("POST",), _MODEL + "/paths-info/{revision:rest}", paths_info),
    (_READ, _MODEL + "/commits/{revision:rest}", commits),
    (_ANY, "", nothing),
    (_ANY, "/{path:rest}", nothing),
)


def _router(view: str) -> APIRouter:
    router = APIRouter(prefix=f"/{view}", route_class=HubRoute, include_in_schema=False)
    for methods, path, endpoint in _ROUTES:
        router.add_api_route(path, endpoint, methods=list(methods), response_model=None)
    return router


VIEW_ROUTERS: Final = tuple(map(_router, VIEWS))
"""One for each view."""
