"""What a repo is and holds: model info, trees, paths, refs and history."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

from fastapi import Depends, Request
from fastapi.responses import JSONResponse

from registry.errors import NotAllowedError, UsageError
from registry.http.payloads import JSON, check_depth
from registry.hub.asking import Acting, Asking
from registry.hub.entries import all_entries, files_of, inside, sibling
from registry.hub.errors import MissingError, told_as
from registry.services import repos
from registry.services.repos import Commit, Pinned, Ref

_ENTRIES: Final = 1000  # a page at most
_COMMITS: Final = 100


def harnesses() -> JSONResponse:
    """What every client asks for once: the programs that it may be run by. This registry names none."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


def whoami(registry: Acting) -> JSONResponse:
    """Whose the token is that was given: ``hf auth login`` looks before it keeps one, under its ``displayName``.

    Raises:
        NotAllowedError: ``bad_token``, none was given; also where everybody may read without.
    """
    who = registry.deployment.principal
    if who.token is None:
        raise NotAllowedError("No token was given, so there is nobody to name.", code="bad_token")
    return JSONResponse(
        {
            "type": "user",
            "id": who.token,
            "name": who.name,
            "fullname": who.name,
            "orgs": [],
            # by its id: a token of another Hub that is called the same would be written over
            "auth": {"type": "access_token", "accessToken": {"displayName": who.token, "role": "read"}},
        }
    )


def model_info(question: Asking) -> JSONResponse:
    """A repo at a revision."""
    pinned = question.pinned()
    repo, repo_id, blobs = pinned.repo, pinned.repo.path.repo_id, question.flag("blobs")
    return JSONResponse(
        {
            "id": repo_id,
            "modelId": repo_id,
            "author": repo.path.base,
            "sha": pinned.commit,
            "createdAt": _time(repo.created_at),
            "lastModified": _time(pinned.at),
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            **_library(pinned),
            "siblings": [sibling(file, blobs=blobs) for file in files_of(question, pinned)],
        }
    )


def _library(pinned: Pinned) -> dict[str, str]:
    """The library that loads it, where that is known."""
    repo = pinned.repo
    if repo.kind != "merged" and not repo.path.is_base:
        return {"library_name": "peft"}
    return {} if repo.base.architecture is None else {"library_name": "transformers"}


def tree(question: Asking) -> JSONResponse:
    """The files and folders of a repo, or of a folder of it."""
    pinned = question.pinned()
    entries = all_entries(files_of(question, pinned), pinned.commit)
    folder = question.path.strip("/")
    if folder and entries.get(folder, {}).get("type") != "directory":
        sentence = f"{pinned.repo.path.repo_id} has no folder {folder[:256]!r} at {pinned.asked.path.reference}."
        raise MissingError(sentence, "EntryNotFound", commit=pinned.commit)
    after, limit = question.request.query_params.get("cursor"), question.limit(_ENTRIES)
    found = inside(entries, folder, recursive=question.flag("recursive"))
    found = found if after is None else [entry for entry in found if entry["path"] > after]
    page = found[:limit]
    headers = question.next_page(page[-1]["path"], commit=pinned.commit) if len(found) > limit else {}
    return JSONResponse(page, headers=headers)


async def _body(request: Request) -> bytes:
    return await request.body()


def paths_info(question: Asking, body: Annotated[bytes, Depends(_body)]) -> JSONResponse:
    """Those of some paths that are there."""
    pinned = question.pinned()
    wanted = _paths(question.request.headers.get("content-type", ""), body)
    entries = all_entries(files_of(question, pinned), pinned.commit)
    return JSONResponse([entries[path] for path in dict.fromkeys(wanted) if path in entries])


def _paths(kind: str, body: bytes) -> list[str]:
    """The paths of a form, or of a JSON document."""
    try:
        if kind.partition(";")[0].strip().lower() == JSON:
            check_depth(body)
            paths: object = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode(), keep_blank_values=True, errors="strict").get("paths", [])
    except (ValueError, TypeError, KeyError, RecursionError):
        paths = None
    found = [paths] if isinstance(paths, str) else paths
    if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
        raise UsageError("The body is malformed: a form or a JSON document with the field paths is expected.")
    return [path.strip("/") for path in found]


def refs(question: Asking) -> JSONResponse:
    """The names that the revisions of a repo have."""
    with question.deployment.read() as session:
        main, tags = repos.refs(session, question.repo(session))
    found: dict[str, list[dict[str, str]]] = {
        "branches": [] if main is None else [_ref(main, "heads")],
        "converts": [],
        "tags": [_ref(tag, "tags") for tag in tags],
    }
    return JSONResponse(found | ({"pullRequests": []} if question.flag("include_prs") else {}))


def _ref(ref: Ref, folder: str) -> dict[str, str]:
    return {"name": ref.name, "ref": f"refs/{folder}/{ref.name}", "targetCommit": ref.commit}


def commits(question: Asking) -> JSONResponse:
    """The history of a repo, newest first."""
    limit, cursor = question.limit(_COMMITS), question.request.query_params.get("cursor")
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise UsageError(f"The cursor {cursor[:32]!r} is not one of this list: follow its Link header.")
    below = None if cursor is None else int(cursor)
    with question.deployment.read() as session:
        repo = question.repo(session)
        with told_as("RevisionNotFound"):
            found = repos.history(session, repo, question.revision, below=below, limit=limit + 1)
    page = found[:limit]
    headers = question.next_page(str(page[-1].number)) if len(found) > limit else {}
    return JSONResponse([_commit(one) for one in page], headers=headers)


def _commit(commit: Commit) -> dict[str, Any]:
    title, _, rest = commit.message.partition("\n")
    return {
        "id": commit.id,
        "title": title or f"r{commit.number}",
        "message": rest.strip(),
        "authors": [] if commit.author is None else [{"user": commit.author}],
        "date": _time(commit.at),
    }


def _time(at: datetime) -> str:
    """A time in the one form that clients read."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
