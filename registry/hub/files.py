"""Files of a repo in the Hub's form: listings, and HEAD and GET of ``resolve`` and of ``raw``.

``raw`` shows them as git keeps them: of a large file the pointer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from fastapi import Response

from registry.digest import hex_of
from registry.errors import NotFoundError, UnavailableError
from registry.folders.scan import ADAPTER_CONFIG, MODEL_CONFIG
from registry.http.artifacts import ListedFile, file_answer, file_names, listing
from registry.http.bodies import FileBody
from registry.http.origins import prefix_of
from registry.hub.errors import COMMIT, EmptyRepoError, MissingError, as_missing
from registry.hub.requests import RepoQuery, RepoQueryParam, renamed_warning
from registry.services.artifacts.commits import is_commit
from registry.services.hub_repos import Pinned
from registry.services.loads import is_header_read

_WEIGHTS: Final = ".safetensors"
_MOST_IN_GIT: Final = 10 << 20  # bytes; larger files are stored by LFS, as elsewhere


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
    """A file as git stores it: a small one as it is, of a large one the pointer of LFS.

    What a large file hashes to is not known where it is computed while it is sent: it has no pointer, and is sent
    itself. A look (``HEAD``) is no load of weights: clients check so whether a file exists.
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


Entry = dict[str, Any]
_POINTER: Final = 134  # bytes of a pointer of git LFS, about; clients expect some number


def files_of(query: RepoQuery, pinned: Pinned) -> tuple[ListedFile, ...]:
    """The visible files of a repo."""
    with as_missing("RevisionNotFound"):
        found = listing(query.service, query.deployment, pinned.asked)
    return tuple(file for file in found if not is_hidden(pinned, file.path))


def sibling(file: ListedFile, *, blobs: bool) -> Entry:
    """A file in the form of model info's ``siblings``."""
    if not blobs:
        return {"rfilename": file.path}
    lfs = _lfs(file, "sha256")
    return {"rfilename": file.path, "size": file.size, "blobId": _oid(file)} | lfs


def all_entries(files: Iterable[ListedFile], commit: str) -> dict[str, Entry]:
    """Every file and every folder, by path."""
    found: dict[str, Entry] = {}
    for file in files:
        for folder in _folders(file.path):
            found[folder] = {"type": "directory", "oid": _folder_oid(commit, folder), "size": 0, "path": folder}
        found[file.path] = _file(file)
    return dict(sorted(found.items()))


def inside(entries: Mapping[str, Entry], folder: str, *, recursive: bool) -> list[Entry]:
    """Entries in a folder (``""``: the root); with ``recursive`` also those in its subfolders."""
    prefix = f"{folder}/" if folder else ""
    below = (entry for path, entry in entries.items() if path.startswith(prefix))
    return [entry for entry in below if recursive or "/" not in entry["path"].removeprefix(prefix)]


def with_commit(entries: Iterable[Entry], pinned: Pinned) -> list[Entry]:
    """The same with the commit that they are of: which one had a file first does not matter, and bytes are of each.

    Clients make of it the time of a file, and the folder of their cache.
    """
    title = "The base model" if pinned.revision is None else title_of(pinned.revision.message, pinned.revision.number)
    last = {"id": pinned.commit, "title": title, "date": hub_time(pinned.at)}
    return [entry | {"lastCommit": last} for entry in entries]


def title_of(message: str, number: int | None) -> str:
    """The title of a commit: a revision without a message is named by its number."""
    return message.partition("\n")[0] or f"r{number}"


def _file(file: ListedFile) -> Entry:
    return {"type": "file", "oid": _oid(file), "size": file.size, "path": file.path} | _lfs(file, "oid")


def _lfs(file: ListedFile, key: str) -> Entry:
    """The digest of a file, under this key; of one that is computed it is not known, and clients would check it."""
    if file.digest is None:
        return {}
    return {"lfs": {key: hex_of(file.digest), "size": file.size, "pointerSize": _POINTER}}


def _oid(file: ListedFile) -> str:
    """The git blob id of a small document; otherwise the ETag, since clients check ``lfs`` or nothing."""
    if file.text is None:
        return file.etag
    digest: str = hashlib.sha1(b"blob %d\0" % len(file.text) + file.text, usedforsecurity=False).hexdigest()
    return digest


def _folder_oid(commit: str, folder: str) -> str:
    return hashlib.sha1(f"{commit}/{folder}".encode(), usedforsecurity=False).hexdigest()


def _folders(path: str) -> Iterable[str]:
    """The folders that contain a path, outermost first."""
    words = path.split("/")
    return ("/".join(words[:count]) for count in range(1, len(words)))


def hub_time(at: datetime) -> str:
    """A time in the only format that clients parse."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def id_of(repo_id: str) -> str:
    """What clients in JavaScript take for the identity of a repo, which is its id."""
    return hashlib.sha1(repo_id.encode(), usedforsecurity=False).hexdigest()[:24]
