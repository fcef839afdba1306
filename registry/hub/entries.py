"""Files and folders of a repo, in the form of the Hub's listings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from registry.digest import hex_of
from registry.http.artifacts import ListedFile, listing
from registry.hub.errors import as_missing
from registry.hub.files import is_hidden
from registry.hub.requests import RepoQuery
from registry.services.hub_repos import Pinned

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
    """The same with the commit that they are of: which one had a file first is not asked, and bytes are of each.

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
