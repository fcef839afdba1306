"""Files of a repo: HEAD and GET of ``resolve``, and of ``raw``, where they are as git keeps them."""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import quote

from fastapi import Response

from registry.errors import NotFoundError, UnavailableError
from registry.folders.scan import ADAPTER_CONFIG, MODEL_CONFIG
from registry.http.addresses import prefix_of
from registry.http.artifacts import ListedFile, file_answer, file_names, listing
from registry.http.wire.bodies import FileBody
from registry.hub.errors import COMMIT, EmptyRepoError, MissingError, as_missing
from registry.hub.requests import RepoQuery, RepoQueryParam, renamed_warning
from registry.services.artifacts.commits import is_commit
from registry.services.hub_repos import Pinned
from registry.services.loads import is_header_read

_WEIGHTS: Final = ".safetensors"
_MOST_IN_GIT: Final = 10 << 20  # bytes; larger files are kept by LFS, as elsewhere


def resolve(query: RepoQueryParam) -> Response:
    """A file of a repo, whole or by a single range; by a name of a revision that may move: where it is now."""
    pinned = _pinned(query)
    if is_commit(query.revision):
        return _bytes(query, pinned)
    with as_missing("RevisionNotFound"):
        names = file_names(query.service, query.deployment, pinned.asked)
    if query.path not in names or is_hidden(pinned, query.path):
        raise _no_file(pinned, query.path)
    if query.request.method == "HEAD":
        _note_load(query, pinned)
    return _at_commit(query, pinned)


def raw(query: RepoQueryParam) -> Response:
    """A file as git keeps it: a small one as it is, of a large one the pointer that LFS keeps there.

    What a large file hashes to is not known where it is computed while it is sent: it has no pointer, and is sent
    itself. A look (``HEAD``) is no load of weights: clients ask so whether there is such a file.
    """
    pinned = _pinned(query)
    with as_missing("RevisionNotFound"):
        files = listing(query.service, query.deployment, pinned.asked)
    file = next((one for one in files if one.path == query.path), None)
    if file is None or is_hidden(pinned, query.path):
        raise _no_file(pinned, query.path)
    pointer = pointer_of(file) if file.path.endswith(_WEIGHTS) or file.size > _MOST_IN_GIT else None
    if pointer is None and query.request.method == "GET":
        return _at_commit(query, pinned)
    text = pointer or b""
    body = FileBody(
        etag=file.etag if pointer is None else hashlib.sha1(text, usedforsecurity=False).hexdigest(),
        size=file.size if pointer is None else len(text),
        chunks=lambda start, stop: iter([memoryview(text)[start:stop]]),
        close=lambda: None,
        kind="artifact",
        name=file.path,
    )
    headers = {COMMIT: pinned.commit} | renamed_warning(pinned.repo)
    return query.service.bodies.answer(query.request, body, admission="copied", headers=headers)


def pointer_of(file: ListedFile) -> bytes | None:
    """The pointer that LFS keeps in git for a file; None: its sha256 is not known."""
    if file.digest is None:
        return None
    lines = ("version https://git-lfs.github.com/spec/v1", f"oid {file.digest}", f"size {file.size}", "")
    return "\n".join(lines).encode()


def _pinned(query: RepoQuery) -> Pinned:
    try:
        return query.pinned()
    except EmptyRepoError as empty:
        raise MissingError(str(empty), "EntryNotFound", commit=empty.sha) from None


def _at_commit(query: RepoQuery, pinned: Pinned) -> Response:
    """The way to the file of a commit, which stays."""
    location = (
        f"{prefix_of(query.request.app)}/{query.place}/{query.repo_id}/resolve/{pinned.commit}/{quote(query.path)}"
    )
    headers = {"Location": location, COMMIT: pinned.commit, "Cache-Control": "no-store"}
    headers |= renamed_warning(pinned.repo)
    return Response(status_code=307, headers=headers)


def _bytes(query: RepoQuery, pinned: Pinned) -> Response:
    if is_hidden(pinned, query.path):
        raise _no_file(pinned, query.path)

    def check(rendering: str) -> None:
        if rendering != pinned.rendering:
            raise UnavailableError(
                f"The commit {pinned.commit} can't be served here now: its bytes were stored, or are computed, with "
                "another arithmetic. Try again in a moment.",
                code="numerics",
            )

    with as_missing("RevisionNotFound"):
        try:
            answer = file_answer(
                query.request,
                query.deployment,
                pinned.asked,
                query.path,
                check=check,
                redirect=302,
                headers={COMMIT: pinned.commit} | renamed_warning(pinned.repo),
            )
        except NotFoundError:
            raise _no_file(pinned, query.path) from None
    if query.request.method == "GET" and query.path.endswith(_WEIGHTS):  # clients look at other files to browse
        query.deployment.note_use(pinned.asked.path.reference, "hub")
    _note_load(query, pinned)
    return answer


def _note_load(query: RepoQuery, pinned: Pinned) -> None:
    """Record what is loaded: weights, or a configuration, after which clients take from their cache what that has."""
    is_weights = query.path.endswith(_WEIGHTS)
    if is_weights and query.request.method == "GET" and is_header_read(query.request.headers.get("range")):
        return
    if is_weights or query.path == MODEL_CONFIG:
        query.deployment.note_load(pinned.asked.path.reference, weights=is_weights)


def is_hidden(pinned: Pinned, path: str) -> bool:
    """Whether a model hides a file: with an adapter's config, clients would take the model for an adapter."""
    is_model = pinned.repo.is_model
    return is_model and path.rpartition("/")[2] == ADAPTER_CONFIG


def _no_file(pinned: Pinned, path: str) -> MissingError:
    repo_id = pinned.repo.path.repo_id
    sentence = f"{repo_id} has no file {path[:256]!r} at {pinned.asked.path.reference}."
    return MissingError(sentence, "EntryNotFound", commit=pinned.commit)
