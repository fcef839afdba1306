"""The list of the repos of a view: base models, then adapters, each by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fastapi import Request
from fastapi.responses import JSONResponse

from registry.catalogue.tree import bases, repo_rows
from registry.catalogue.tree.repo_rows import Listed
from registry.digest import StoredFile
from registry.errors import UsageError
from registry.hub.entries import hub_time, id_of
from registry.hub.requests import RepoQuery, RequestRegistry
from registry.schemas.form import is_plain
from registry.services.hub_cards import ListedRepo, listed_repo

_PAGE: Final = 100
_ADAPTERS: Final = "/"  # in a cursor: the base models were all listed; no name of a base model begins with it
_NOBODY: Final = ("inference", "inference_provider", "trained_dataset", "apps")


def models(registry: RequestRegistry, request: Request) -> JSONResponse:
    """The repos that the token may see, a page of them: those whose ``main`` is served."""
    query = RepoQuery(request, registry.deployment)
    limit, cursor = query.limit(_PAGE), request.query_params.get("cursor", "")
    if not is_plain(cursor) or len(cursor) > 512:
        raise UsageError(f"The cursor {cursor[:32]!r} does not belong to this list: follow its Link header.")
    if any(key in request.query_params for key in _NOBODY) or request.query_params.get("gated", "").lower() == "true":
        return JSONResponse([])  # no repo here is gated, or served by a provider
    rows, following = _rows(query, cursor, limit)
    found = [one for one in _repos(query, rows) if _is_wanted(request, one)]
    headers = query.next_page(following) if following is not None else {}
    return JSONResponse([_entry(one) for one in found], headers=headers)


def _rows(query: RepoQuery, cursor: str, limit: int) -> tuple[list[Listed], str | None]:
    """A page of rows, and the cursor of the next; a page may have fewer, since conditions are met only after it."""
    author = query.request.query_params.get("author") or None
    author = author.lower() if author is not None and is_plain(author) else author
    if author is not None and not is_plain(author):
        return [], None
    with query.deployment.read() as session:
        if not cursor.startswith(_ADAPTERS):
            found = repo_rows.bases_listed(session, after=cursor, limit=limit, author=author)
            return found, str(found[-1].path) if len(found) == limit else _ADAPTERS
        rows = repo_rows.adapters_listed(session, after=cursor.removeprefix(_ADAPTERS), limit=limit, author=author)
    if len(rows) < limit:
        following = None
    else:
        last = rows[-1]
        following = _ADAPTERS + (last if isinstance(last, str) else str(last.path))
    return [row for row in rows if not isinstance(row, str)], following


def _repos(query: RepoQuery, rows: list[Listed]) -> Iterator[ListedRepo]:
    """What the catalogue says of the rows, and the files of their few base models."""
    deployment = query.deployment
    with deployment.read() as session:
        names = sorted({row.path.base for row in rows})
        files: dict[str, tuple[StoredFile, ...]] = {name: bases.get(session, name).files for name in names}
    for row in rows:
        yield listed_repo(deployment.artifact_blobs, query.view, row, files[row.path.base])


def _is_wanted(request: Request, repo: ListedRepo) -> bool:
    """Whether a repo meets the conditions that are not part of the query."""
    given = request.query_params
    search, task = given.get("search", ""), given.get("pipeline_tag")
    wanted = {word.strip() for text in given.getlist("filter") for word in text.split(",") if word.strip()}
    return (
        search.lower() in repo.repo_id
        and (not task or task == repo.card.pipeline_tag)
        and wanted <= set(repo.card.tags)
    )


def _entry(repo: ListedRepo) -> dict[str, Any]:
    known = {"library_name": repo.card.library, "pipeline_tag": repo.card.pipeline_tag}
    return {
        "_id": id_of(repo.repo_id),
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "author": repo.base,
        "createdAt": hub_time(repo.created_at),
        "lastModified": hub_time(repo.modified_at),
        "private": False,
        "gated": False,
        "tags": list(repo.card.tags),
        "cardData": repo.card.data,
        **{key: value for key, value in known.items() if value is not None},
    }
