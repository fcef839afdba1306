"""A small Hub on a loopback port that is written to: repositories, commits, files large and small.

It speaks the part of the write protocol that huggingface_hub's ``create_repo`` and ``create_commit`` use: create,
validate-yaml, preupload, LFS with one PUT a file, commit with a parent, and the reads of `tests.kit.hub_folder`. As on
the real one, a new repository has a first commit with ``.gitattributes``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.kit.hub_server import HubAnswers, HubServer

_API = re.compile(r"/hub/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/([^/?]+))?")
_BATCH = re.compile(r"/hub/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
_FILE = re.compile(r"/hub/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_OBJECT = re.compile(r"/hub/objects/([0-9a-f]{64})")


@dataclass
class Commit:
    """One commit: its files, and which of them went by LFS."""

    id: str
    title: str
    files: dict[str, bytes]
    lfs: frozenset[str]


@dataclass
class WrittenRepo:
    """A repository."""

    private: bool
    commits: list[Commit] = field(default_factory=list)

    @property
    def head(self) -> Commit:
        """The newest commit of main."""
        return self.commits[-1]

    def add(self, title: str, files: dict[str, bytes], lfs: frozenset[str] = frozenset()) -> Commit:
        """Another commit, with these files alone."""
        made = hashlib.sha1(f"{title} {len(self.commits)} {sorted(files)}".encode(), usedforsecurity=False).hexdigest()
        self.commits.append(Commit(made, title, files, lfs))
        return self.head


class WritableHub(HubServer):
    """The Hub. Files of ``large`` bytes and more go by LFS; ``before_commit`` is called before a commit is taken."""

    def __init__(self, token: str = "hf_writer", large: int = 1 << 40) -> None:
        super().__init__(_Answers)
        self.token = token
        self.large = large
        self.repos: dict[str, WrittenRepo] = {}
        self.objects: dict[str, bytes] = {}
        self.bodies: list[bytes] = []  # all that clients sent
        self.before_commit: Any = None

    def create(self, repo_id: str, *, private: bool) -> WrittenRepo:
        """A new repository."""
        repo = self.repos[repo_id] = WrittenRepo(private)
        repo.add("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return repo


class _Answers(HubAnswers["WritableHub"]):
    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.seen.append(f"{self.command} {path}")
        hub.bodies.append(body)
        if "/agent-harnesses" in path:
            return self._json({"standardEnvVars": [], "harnesses": {}})
        if (found := _OBJECT.fullmatch(path)) is not None:
            hub.objects[found[1]] = body
            return self._json({})
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._error(401, "RepoNotFound", "Invalid username or password.")
        if path == "/hub/api/repos/create":
            return self._create(json.loads(body))
        if path == "/hub/api/validate-yaml":
            return self._json({})
        if (found := _BATCH.fullmatch(path)) is not None:
            return self._batch(json.loads(body))
        found = _FILE.fullmatch(path) or _API.fullmatch(path)
        repo = hub.repos.get(found[1]) if found is not None else None
        if found is None or repo is None:
            return self._error(404, "RepoNotFound", "Repository not found")
        if found.re is _API and found[2] == "preupload":
            return self._preupload(json.loads(body))
        if found.re is _API and found[2] == "commit":
            return self._commit(found[1], repo, body)
        name = (found[2] if found.re is _FILE else found[3]) or "main"
        commit = next((one for one in repo.commits if one.id == name), repo.head if name == "main" else None)
        if commit is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {name}")
        if found.re is _FILE:
            return self._file(commit, found[3])
        if found[2] == "tree":
            return self._json([_entry(commit, one) for one in sorted(commit.files)])
        return self._json({"id": found[1], "sha": commit.id, "private": repo.private})

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815

    def _create(self, asked: dict[str, Any]) -> None:
        hub = self.hub
        if asked.get("organization") == "forbidden":
            return self._error(403, "", "You don't have the rights to create a model under this namespace")
        repo_id = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{hub.url}/models/{repo_id}"}
        if repo_id in hub.repos:
            return self._json(url | {"error": "You already created this model repo"}, 409)
        hub.create(repo_id, private=asked.get("private", asked.get("visibility") == "private"))
        return self._json(url)

    def _preupload(self, asked: dict[str, Any]) -> None:
        large = self.hub.large
        files = [
            {"path": one["path"], "uploadMode": "lfs" if one["size"] >= large else "regular", "shouldIgnore": False}
            for one in asked["files"]
        ]
        self._json({"files": [one | {"oid": None} for one in files]})

    def _batch(self, asked: dict[str, Any]) -> None:
        hub, objects = self.hub, []
        for one in asked["objects"]:
            upload = {"href": f"{hub.url}/objects/{one['oid']}"}
            actions = {} if one["oid"] in hub.objects else {"actions": {"upload": upload}}
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo_id: str, repo: WrittenRepo, body: bytes) -> None:
        hub = self.hub
        if hub.before_commit is not None:
            hub.before_commit()
        header, *lines = map(json.loads, body.splitlines())
        if header["value"].get("parentCommit") not in {None, repo.head.id}:
            return self._error(412, "", "A commit has happened since. Please refresh and try again.")
        files, lfs = dict(repo.head.files), set(repo.head.lfs)
        for line in lines:
            value = line["value"]
            lfs.discard(value["path"])
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = hub.objects[value["oid"]]
                lfs.add(value["path"])
        made = repo.add(header["value"]["summary"], files, frozenset(lfs))
        url = f"{hub.url}/models/{repo_id}/commit/{made.id}"
        return self._json({"commitUrl": url, "commitOid": made.id})

    def _file(self, commit: Commit, name: str) -> None:
        data = commit.files.get(name)
        if data is None:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.id})
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        first = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        return self._send(206 if "Range" in self.headers else 200, headers, data[first:])


def _entry(commit: Commit, name: str) -> dict[str, Any]:
    data = commit.files[name]
    git = hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git}
    if name in commit.lfs:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
