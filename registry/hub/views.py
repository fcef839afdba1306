"""The routes of the views, the same for each: repos, their files, model info with cards, and pages for browsers.

What a browser finds at the address of a repo, which on the Hub is its page: the way to the page of its path.

Nothing is looked up: it leads to a page for every visitor, and the page knows what its visitor may see.

Model info of a repo, with what its card says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.convertors import Convertor, register_url_convertor

from registry.catalogue.tree import browse, cards
from registry.catalogue.tree.revisions import RevisionRow
from registry.errors import CROSS_SITE, NotFoundError, UsageError
from registry.http.context import Scope
from registry.http.errors import Face
from registry.http.limits import is_below_view
from registry.http.origins import page_path, prefix_of
from registry.hub.errors import EmptyRepoError, MissingError, WriteRoute, view_response, warning
from registry.hub.files import files_of, hub_time, id_of, raw, resolve, sibling
from registry.hub.lists import commits, harnesses, models, paths_info, refs, tree, whoami
from registry.hub.requests import RepoQuery, RepoQueryParam, RequestRegistry, renamed_warning, request_registry
from registry.hub.upstream import RepoRoute
from registry.hub.writing.commits import commit, preupload
from registry.hub.writing.repos import (
    batch,
    branches,
    complete,
    create,
    create_tag,
    delete_tag,
    no_discussions,
    no_removal,
    no_xet,
    part,
    settings,
    validate_yaml,
)
from registry.reference import MAIN, Path, Reference, check_tag, number_in_view
from registry.schemas.protocol import VIEWS, Problem
from registry.services.artifacts.commits import is_commit
from registry.services.artifacts.readme.exported import RepoCard, repo_card
from registry.services.artifacts.readme.facts import base_facts
from registry.services.hub_repos import Pinned


def model_info(query: RepoQueryParam) -> JSONResponse:
    """A repo at a revision; of one that is empty so far only that it exists."""
    try:
        return _model_info(query)
    except EmptyRepoError as empty:
        if query.revision not in {MAIN, empty.sha}:
            raise
        found = {"id": query.repo_id, "modelId": query.repo_id, "sha": empty.sha, "private": False, "siblings": []}
        return JSONResponse(found | {"tags": []})


def _model_info(query: RepoQuery) -> JSONResponse:
    with query.deployment.read() as session:
        pinned = query.pinned_in(session)
        edited, said = {}, {}
        if pinned.revision is not None:
            edited, said = cards.own_metadata(session, pinned.revision.adapter_id), _said(session, pinned.revision)
    query.deployment.note_load(pinned.asked.path.reference, weights=False)  # transformers 5 asks no more of what it has
    repo, repo_id, blobs = pinned.repo, query.repo_id, query.flag("blobs")
    card = _card(query, pinned, edited, said)
    known = {"library_name": card.library, "pipeline_tag": card.pipeline_tag}
    return JSONResponse(
        {
            "_id": id_of(repo_id),
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.partition("/")[0],
            "sha": pinned.commit,
            "createdAt": hub_time(repo.created_at),
            "lastModified": hub_time(pinned.at),
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": list(card.tags),
            **{key: value for key, value in known.items() if value is not None},
            "cardData": card.data,
            "siblings": [sibling(file, blobs=blobs) for file in files_of(query, pinned)],
        },
        headers=renamed_warning(repo),
    )


def auth_check(query: RepoQueryParam) -> JSONResponse:
    """Whether the token may read a repo: an error says that it may not."""
    with query.deployment.read() as session:
        query.repo(session)
    return JSONResponse({})


def _card(query: RepoQuery, pinned: Pinned, edited: dict[str, Any], said: dict[str, Any]) -> RepoCard:
    repo = pinned.repo
    config = None if pinned.revision is None else json.loads(pinned.revision.manifest)["config"]
    facts = base_facts(query.deployment.artifact_blobs, repo.base.files)
    return repo_card(repo.kind, facts, repo.base.hub_name, adapter_config=config, edited=edited, said=said)


def _said(session: Session, row: RevisionRow) -> dict[str, Any]:
    tags, metrics = browse.labels(session, row.id)
    return {"reference": row.reference, "digest": row.digest, "tags": list(tags), "metrics": metrics}


_NAMING: Final = frozenset({"tree", "blob", "commit", "commits"})
"""Words of the Hub's addresses after which the name of a revision comes."""


def page_of(request: Request, view: str) -> str | None:
    """The address of the page of the repo that a browser asks for; None: not a browser, or no repo."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return None
    rest = str(request.path_params.get("path", "")).removeprefix("models/")
    namespace, _, below = rest.partition("/")
    name, word, revision, *_ = [*below.split("/"), "", "", ""]
    try:
        path = Path.of_repo_id(f"{namespace}/{name}")
    except UsageError:
        return None
    if word in _NAMING and is_commit(revision) and not path.is_base:
        page = f"/commit/{view}/{revision}/{path}"
    else:
        page = page_path(str(_reference(path, revision if word in _NAMING else MAIN)))
    return f"{prefix_of(request.app)}{page}"


def _reference(path: Path, revision: str) -> Reference:
    """What the name of a revision means; the newest if it is no name that one can have."""
    number = number_in_view(revision)
    if path.is_base or revision == MAIN:
        return Reference(path)
    if number is not None:
        return Reference(path, number=number)
    try:
        return Reference(path, tag=check_tag(revision))
    except UsageError:
        return Reference(path)


_READ: Final = ("GET", "HEAD")
_CHANGES: Final = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_MODEL: Final = "/api/models/{namespace}/{name}"
_BARE: Final = "/api/models/{name}"  # a repo without an organisation, which only the source of a base model has
_LFS: Final = "/{namespace}/{name}.git/info/lfs"


class _Rest(Convertor[str]):
    """The rest of a path, including line ends, at which ``path`` stops: a view answers everything below its path."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("rest", _Rest())


def nothing(request: Request) -> Response:
    """What is read at an address that a view does not have: to clients each of them may be one of a repo.

    Browsers find the way to the page of a repo.
    """
    page = page_of(request, request.scope["route"].path_format.split("/")[1])
    if page is not None:
        return Response(status_code=303, headers={"Location": page, "Cache-Control": "no-store", "Vary": "Accept"})
    request_registry(request)  # without authentication, existing addresses are not revealed
    raise MissingError(_nothing_at(request), "RepoNotFound")


def no_paths(registry: RequestRegistry, request: Request) -> None:
    """Paths of a repo that no view has: of a data set, or of a name without a first part."""
    del registry
    raise MissingError(_nothing_at(request), "RepoNotFound")


def no_list(registry: RequestRegistry, request: Request) -> None:
    """What other Hubs list or report of themselves. No repo was requested: a client would propose to create one."""
    del registry
    raise NotFoundError(_nothing_at(request))


def no_writing(request: Request) -> None:
    """What changes something else at other Hubs: impossible here, whoever requests it and whatever exists."""
    raise NotFoundError(_nothing_at(request))


def _nothing_at(request: Request) -> str:
    address = f"{request.method} {request.url.path[:256]}"
    return (
        f"{address} is not supported: the Hub views serve models by repo id, and take pushes of adapters. List models "
        "with `registry tree` or `registry search`."
    )


_ROUTES: Final[tuple[tuple[tuple[str, ...], str, Callable[..., Any]], ...]] = (
    (_READ, "/{namespace}/{name}/resolve/{revision}/{path:rest}", resolve),
    (_READ, "/{namespace}/{name}/raw/{revision}/{path:rest}", raw),
    (_READ, "/api/agent-harnesses", harnesses),
    (_READ, "/api/models", models),
    (_READ, _MODEL, model_info),
    (_READ, _MODEL + "/auth-check", auth_check),
    (_READ, _MODEL + "/revision/{revision:rest}", model_info),
    (_READ, _MODEL + "/tree/{revision}", tree),
    (_READ, _MODEL + "/tree/{revision}/{path:rest}", tree),
    (_READ, _MODEL + "/refs", refs),
    (("POST",), _MODEL + "/paths-info/{revision:rest}", paths_info),
    (("POST",), _BARE + "/paths-info/{revision:rest}", paths_info),
    (("POST",), "/api/{kind}/{name}/paths-info/{revision:rest}", no_paths),
    (("POST",), "/api/datasets/{namespace}/{name}/paths-info/{revision:rest}", no_paths),
    (_READ, _MODEL + "/commits/{revision:rest}", commits),
    (_READ, "/{name}/resolve/{revision}/{path:rest}", resolve),
    (_READ, "/{name}/raw/{revision}/{path:rest}", raw),
    (_READ, _BARE, model_info),
    (_READ, _BARE + "/revision/{revision:rest}", model_info),
    (_READ, _BARE + "/tree/{revision}", tree),
    (_READ, _BARE + "/tree/{revision}/{path:rest}", tree),
    (_READ, _BARE + "/commits/{revision:rest}", commits),
    (_READ, "/api/whoami-v2", whoami),
    (_READ, "/api/{list}", no_list),
    (_READ, "", nothing),
    (_READ, "/{path:rest}", nothing),
)
_WRITES: Final[tuple[tuple[tuple[str, ...], str, Callable[..., Any]], ...]] = (
    (("POST",), "/api/repos/create", create),
    (("POST",), "/api/validate-yaml", validate_yaml),
    (("POST",), _MODEL + "/preupload/{revision:rest}", preupload),
    (("POST",), _MODEL + "/commit/{revision:rest}", commit),
    (("POST",), _LFS + "/objects/batch", batch),
    (("PUT",), _LFS + "/parts/{upload}/{number}", part),
    (("POST",), _LFS + "/complete/{upload}", complete),
    (("POST",), _MODEL + "/tag/{revision:rest}", create_tag),
    (("DELETE",), _MODEL + "/tag/{revision:rest}", delete_tag),
    (("POST", "DELETE"), _MODEL + "/branch/{revision:rest}", branches),
    (("PUT",), _MODEL + "/settings", settings),
    (("DELETE",), "/api/repos/delete", no_removal),
    (("POST",), "/api/repos/move", no_removal),
    (("POST",), _MODEL + "/super-squash/{revision:rest}", no_removal),
    (("POST",), _MODEL + "/lfs-files/batch", no_removal),
    (("POST",), _MODEL + "/discussions", no_discussions),
    (_READ, _MODEL + "/xet-write-token/{revision:rest}", no_xet),
)
_NOT_HERE: Final = ((_CHANGES, "", no_writing), (_CHANGES, "/{path:rest}", no_writing))


def _router(view: str) -> APIRouter:
    router = APIRouter(prefix=f"/{view}", route_class=RepoRoute, include_in_schema=False)
    # Before the routes that read, of which the last takes every address: one that refuses a push is read.
    for methods, path, endpoint in _WRITES:
        router.add_api_route(
            path, endpoint, methods=list(methods), response_model=None, route_class_override=WriteRoute
        )
    for methods, path, endpoint in _ROUTES:
        router.add_api_route(path, endpoint, methods=list(methods), response_model=None)
    for methods, path, endpoint in _NOT_HERE:
        router.add_api_route(path, endpoint, methods=list(methods), response_model=None)
    return router


def _told(_: Scope, told: Problem, headers: Mapping[str, str]) -> Response:
    """Refusals before any route; of one for a page of another site, what clients print, as where a route refuses."""
    if told.code == CROSS_SITE:
        told = told.model_copy(update={"detail": f"{told.detail} ({told.code})"})
        headers = {**headers, **warning(told.code, told.detail)}
    return view_response(told, headers)


def _is_for(scope: Scope) -> bool:
    return is_below_view(scope["path"])


VIEW_ROUTERS: Final = tuple(map(_router, VIEWS))
"""One router per view."""
HUB: Final = Face(VIEW_ROUTERS, _is_for, _told)
