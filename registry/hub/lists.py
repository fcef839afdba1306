"""Metadata of repos in the Hub's form: models of a view, and info, tree, paths, refs and history of one repo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

from fastapi import Depends, Request
from fastapi.responses import JSONResponse

from registry.catalogue.tree import bases, repo_rows
from registry.catalogue.tree.repo_rows import Listed
from registry.digest import StoredFile
from registry.errors import NotAllowedError, UsageError
from registry.http.errors import MalformedError
from registry.http.payloads import JSON, check_depth, check_keys
from registry.hub.errors import EmptyRepoError, MissingError, as_missing
from registry.hub.files import all_entries, files_of, hub_time, id_of, inside, title_of, with_commit
from registry.hub.requests import RepoQuery, RepoQueryParam, RequestRegistry, is_true
from registry.schemas.form import is_plain
from registry.services import hub_repos
from registry.services.artifacts.readme.exported import ListedRepo, listed_repo
from registry.services.hub_repos import Commit, Ref

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


_ENTRIES: Final = 1000  # most per page
_COMMITS: Final = 100


def harnesses() -> JSONResponse:
    """What every client asks for once: the programs that it may be run by. This registry names none."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


def whoami(registry: RequestRegistry) -> JSONResponse:
    """Whose the token is that was given: ``hf auth login`` looks before it keeps one, under its ``displayName``.

    Raises:
        NotAllowedError: ``bad_token``, none was given; also where everybody may read without.
    """
    who = registry.deployment.principal
    if who.token is None:
        raise NotAllowedError("No token was given, so there is no user to name.", code="bad_token")
    role = "read" if who.rights.role == "reader" else "write"
    return JSONResponse(
        {
            "type": "user",
            "id": who.token,
            "name": who.name,
            "fullname": who.name,
            "orgs": [],
            # by its id: clients would overwrite a token of another Hub with the same name
            "auth": {"type": "access_token", "accessToken": {"displayName": who.token, "role": role}},
        }
    )


def tree(query: RepoQueryParam) -> JSONResponse:
    """The files and folders of a repo, or of a folder of it."""
    try:
        pinned = query.pinned()
    except EmptyRepoError:
        return JSONResponse([])
    entries = all_entries(files_of(query, pinned), pinned.commit)
    folder = query.path.strip("/")
    if folder and entries.get(folder, {}).get("type") != "directory":
        sentence = f"{pinned.repo.path.repo_id} has no folder {folder[:256]!r} at {pinned.asked.path.reference}."
        raise MissingError(sentence, "EntryNotFound", commit=pinned.commit)
    after, limit = query.request.query_params.get("cursor"), query.limit(_ENTRIES)
    found = inside(entries, folder, recursive=query.flag("recursive"))
    found = found if after is None else [entry for entry in found if entry["path"] > after]
    page = found[:limit]
    headers = query.next_page(page[-1]["path"], commit=pinned.commit) if len(found) > limit else {}
    return JSONResponse(with_commit(page, pinned) if query.flag("expand") else page, headers=headers)


async def _body(request: Request) -> bytes:
    return await request.body()


def paths_info(query: RepoQueryParam, body: Annotated[bytes, Depends(_body)]) -> JSONResponse:
    """Those of some paths that exist."""
    pinned = query.pinned()
    paths, expand = _paths(query.request.headers.get("content-type", ""), body)
    entries = all_entries(files_of(query, pinned), pinned.commit)
    found = [entries[path] for path in dict.fromkeys(paths) if path in entries]
    return JSONResponse(with_commit(found, pinned) if expand else found)


def _paths(kind: str, body: bytes) -> tuple[list[str], bool]:
    """The paths of a form or a JSON document, and whether more is to be said of each."""
    try:
        if kind.partition(";")[0].strip().lower() == JSON:
            check_depth(body)
            check_keys(body)
            document = json.loads(body)
            paths: object = document["paths"]
            expand = document.get("expand") is True
        else:
            form = parse_qs(body.decode(), keep_blank_values=True, errors="strict")
            paths = form.get("paths", [])
            expand = is_true(form.get("expand", [""])[-1])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, MalformedError):
        paths, expand = None, False
    found = [paths] if isinstance(paths, str) else paths
    if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
        raise UsageError("The body is malformed: a form or a JSON document with the field paths is expected.")
    return [path.strip("/") for path in found], expand


def refs(query: RepoQueryParam) -> JSONResponse:
    """The names that the revisions of a repo have."""
    with query.deployment.read() as session:
        main, tags = hub_repos.refs(session, query.repo(session))
    found: dict[str, list[dict[str, str]]] = {
        "branches": [] if main is None else [_ref(main, "heads")],
        "converts": [],
        "tags": [_ref(tag, "tags") for tag in tags],
    }
    return JSONResponse(found | ({"pullRequests": []} if query.flag("include_prs") else {}))


def _ref(ref: Ref, folder: str) -> dict[str, str]:
    return {"name": ref.name, "ref": f"refs/{folder}/{ref.name}", "targetCommit": ref.commit}


def commits(query: RepoQueryParam) -> JSONResponse:
    """The history of a repo, newest first."""
    limit, cursor = query.limit(_COMMITS), query.request.query_params.get("cursor")
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise UsageError(f"The cursor {cursor[:32]!r} does not belong to this list: follow its Link header.")
    below = None if cursor is None else int(cursor)
    with query.deployment.read() as session:
        repo = query.repo(session)
        with as_missing("RevisionNotFound"):
            found = hub_repos.history(session, repo, query.revision, below=below, limit=limit + 1)
            total = hub_repos.count_commits(session, repo, query.revision)
    page = found[:limit]
    headers = {"X-Total-Count": str(total)} | (query.next_page(str(page[-1].number)) if len(found) > limit else {})
    return JSONResponse([_commit(one) for one in page], headers=headers)


def _commit(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.id,
        "title": title_of(commit.message, commit.number),
        "message": commit.message.partition("\n")[2].strip(),
        "authors": [] if commit.author is None else [{"user": commit.author}],
        "date": hub_time(commit.at),
    }
