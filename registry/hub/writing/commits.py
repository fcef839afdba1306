"""Commits: first their files by name, so that what is not taken does not travel, then the files themselves.

What a Hub client reports of itself, as far as it decides by which way its bytes come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import Depends, Request
from fastapi.responses import JSONResponse

from registry.digest import PREFIX
from registry.errors import ConflictError, RegistryError, UsageError
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.folders.staging import temporary_folder
from registry.http.context import context_of
from registry.http.dependencies import service_of
from registry.http.errors import MalformedError
from registry.http.payloads import chunks_of
from registry.hub.errors import EmptyRepoError, MissingError, said_in, warning
from registry.hub.requests import RepoQuery, RepoQueryParam
from registry.hub.writing.documents import Announcement, Body, Header, LargePushed, Line, PushedFile, lines, parsed
from registry.hub.writing.repos import view_of
from registry.reference import MAIN, Path
from registry.schemas.protocol import HUB_ORIGIN
from registry.services import hub_repos
from registry.services.pushing.parts import Large, Sent
from registry.services.pushing.push import Push, Taken, parent_in, take_push
from registry.services.pushing.repo import PAIR, begin, choose, place_of, waiting_for

_VERSION: Final = re.compile(r"(?:^|; )hf_hub/(\d{1,4})\.(\d{1,4})\.")
_ORIGIN: Final = re.compile(rf"(?:^|; )origin/{re.escape(HUB_ORIGIN)}(?:;|$)")
_INSISTS: Final = (1, 20)
"""From this version of huggingface_hub on, clients with hf_xet send large files by Xet, whatever the answer offers."""


def uses_lfs(user_agent: str) -> bool:
    """Whether a client is known to send a large file by LFS, which costs it a sixth of what base64 does.

    Version 1.20 and later say nothing of whether they will; those whose shell has what `registry env` prints will.
    """
    version = _version(user_agent)
    return version is not None and (version < _INSISTS or _ORIGIN.search(user_agent) is not None)


def may_insist_on_xet(user_agent: str) -> bool:
    """Whether a client may send a large file by Xet despite the answer, and then shows no sentence of ours."""
    return _version(user_agent) is not None and not uses_lfs(user_agent)


def _version(user_agent: str) -> tuple[int, int] | None:
    found = _VERSION.search(user_agent)
    return None if found is None else (int(found[1]), int(found[2]))


_PULL_REQUEST: Final = "create_pr"


def preupload(query: RepoQueryParam, asked: Annotated[Announcement, Depends(Body(Announcement))]) -> JSONResponse:
    """Say which files of a commit are taken. What waits from an earlier push is superseded by what comes now."""
    path = _place(query)
    sizes = {file.path: file.size for file in asked.files}
    waiting = waiting_for(query.deployment, path, superseded=tuple(sizes))
    client = query.request.headers.get("user-agent", "")
    chosen = choose(
        query.repo_id, sizes, waiting, uses_lfs=uses_lfs(client), may_insist_on_xet=may_insist_on_xet(client)
    )
    files = [
        # Without an oid clients send everything again, so that a commit is whole.
        {
            "path": file.path,
            "uploadMode": "lfs" if chosen.by_lfs and file.path == ADAPTER_WEIGHTS else "regular",
            "shouldIgnore": file.path not in chosen.taken,
            "oid": None,
        }
        for file in asked.files
    ]
    told = " ".join(chosen.sentences)
    headers = warning(f"left_out {query.repo_id}", told) if told else {}
    return JSONResponse({"files": files}, headers=headers)


async def commit(query: RepoQueryParam, request: Request) -> JSONResponse:
    """Take the files of a commit."""
    context_of(request.scope).kind = "part"
    # With threads of their own, as parts of uploads: a client that sends slowly must not keep others waiting.
    limiter = service_of(request).part_threads
    return await anyio.to_thread.run_sync(_commit, query, chunks_of(request), limiter=limiter)


def _commit(query: RepoQuery, chunks: Iterable[bytes]) -> JSONResponse:
    path = _place(query)
    with temporary_folder("registry-push") as folder:
        found = _read(query, lines(chunks, folder))
        before = _begun(query, path)
        after = None
        if found.header.parentCommit is not None:
            if found.header.parentCommit != before.id:
                raise ConflictError(
                    f"{query.repo_id} has a newer revision than the one this commit is based on, {before.id}: look at "
                    "it, and push again.",
                    code="not_newest",
                )
            after = before.number or 0
        message, parent = parent_in(found.header.summary, found.header.description or "")
        taken = take_push(query.deployment, Push(path, message, parent, found.files, after))
    made = None if taken.published is None else taken.published.revision.reference.rpartition("@")[2]
    commit_id = _newest(query).id if made is None else _commit_of(query, f"r{made}").id
    answer = {"commitUrl": f"{view_of(query.request)}/models/{path.repo_id}/commit/{commit_id}", "commitOid": commit_id}
    sentence = " ".join(_told(taken))
    return JSONResponse(answer, headers=warning(f"push {said_in(query.request)}", sentence) if sentence else {})


def _place(query: RepoQuery) -> Path:
    """Where a commit goes, once the rights to it are checked."""
    path = place_of(query.deployment, query.repo_id)
    try:
        branch = query.revision
    except RegistryError as error:
        raise UsageError(str(error)) from None
    if branch != MAIN:
        raise UsageError(
            f"{query.repo_id} has no branch {branch[:96]!r}: push to {MAIN}, and name the revision by a tag "
            "(create_tag)."
        )
    if query.flag(_PULL_REQUEST):
        raise UsageError("This registry has no pull requests: push to main (create_pr=False).")
    return path


@dataclass(frozen=True)
class _Read:
    header: Header
    files: Mapping[str, Sent]


def _read(query: RepoQuery, body: Iterable[Line]) -> _Read:
    header: Header | None = None
    files: dict[str, Sent] = {}
    for line in body:
        key, value = line.document.get("key"), line.document.get("value")
        if header is None:
            if key != "header":
                raise MalformedError("The commit is malformed: its first line has to be the header.")
            header = parsed(Header, value)
            query.request.state.summary = header.summary
        else:
            name, content = _operation(key, value, line)
            files[name] = content
    if header is None:
        raise MalformedError("The commit is malformed: it has no header.")
    return _Read(header, files)


def _operation(key: Any, value: Any, line: Line) -> tuple[str, Sent]:
    if key in {"deletedFile", "deletedFolder"}:
        raise UsageError(
            "What was published is not changed: a push can't delete files. To take a revision back, use `registry "
            "retract` or `registry delete`."
        )
    if key == "lfsFile":
        large = parsed(LargePushed, value)
        if large.size is None:
            raise UsageError(f"A push can't copy files: send {large.path[:96]} itself.")
        return large.path, Large(f"{PREFIX}{large.oid}", large.size)
    if key != "file":
        raise MalformedError(f"The commit is malformed: there is no operation {str(key)[:32]!r}.")
    file = parsed(PushedFile, value)
    if file.encoding != "base64" or line.content is None:
        raise MalformedError(f"The commit is malformed: the content of {file.path!r} has to be base64.")
    return file.path, line.content


def _begun(query: RepoQuery, path: Path) -> _Before:
    """The commit before this one. A repo need not be created first."""
    try:
        return _newest(query)
    except MissingError:
        begin(query.deployment, path)
        return _newest(query)


@dataclass(frozen=True)
class _Before:
    """The commit that another one follows; ``number`` None: what stands for one in an empty repo."""

    id: str
    number: int | None


def _newest(query: RepoQuery) -> _Before:
    """The commit of ``main``, or what stands for it in an empty repo."""
    try:
        return _commit_of(query, MAIN)
    except EmptyRepoError as empty:
        return _Before(empty.sha, None)


def _commit_of(query: RepoQuery, name: str) -> _Before:
    """The commit of a revision, also of one that was retracted: what is pushed after it has nothing to do with that."""
    with query.deployment.read() as session:
        (commit,) = hub_repos.history(session, query.repo(session), name, below=None, limit=1)
    return _Before(commit.id, commit.number)


def _told(taken: Taken) -> Iterable[str]:
    """What the client prints of it."""
    if taken.published is not None:
        revision = taken.published.revision
        if taken.published.created:
            yield f"Published as {revision.reference}, on {revision.parent} ({taken.published.parent_reason})."
            yield from map(str, taken.published.notices)
        else:
            yield f"{revision.reference} has this configuration and these weights already: nothing new was published."
    if taken.waiting:
        missing = " and ".join(name for name in PAIR if name not in taken.waiting)
        yield (
            f"{', '.join(taken.waiting)} {'waits' if len(taken.waiting) == 1 else 'wait'} for {missing}: nothing is "
            "published yet, and what waits is dropped after 24 hours."
        )
    if taken.card_kept:
        yield "The card was edited by somebody else and stays as it is."
