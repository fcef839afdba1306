"""A small Hub on a loopback port that serves folders: what huggingface_hub asks when it takes a repository.

It holds what real Hubs hold and a registry's views don't: pickles, checkpoints, gated repositories, checksums that are
wrong, connections that break.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.kit.hub_server import HubAnswers, HubServer

_API = re.compile(r"/hub/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/?]+))?")
_FILE = re.compile(r"/hub/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def commit_of(text: str) -> str:
    """A commit id."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """A repository: folders by commit, and commits by name."""

    commits: dict[str, Path] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None  # who has it sees the repository

    def commit(self, folder: Path, *names: str) -> str:
        """Another commit with the files of a folder; ``main`` is it now, and so are the names."""
        made = commit_of(f"{folder} {len(self.commits)}")
        self.commits[made] = folder
        self.names |= dict.fromkeys(("main", *names), made)
        return made


class HubFolders(HubServer):
    """The Hub. ``cut``: how often the body of the file of that name breaks off in its middle."""

    def __init__(self) -> None:
        super().__init__(_Answers)
        self.repos: dict[str, Repo] = {}
        self.cut: dict[str, int] = {}
        self.sha256: dict[str, str] = {}  # by file name, instead of the right one
        self.sent_tokens: set[str | None] = set()

    def add(self, repo_id: str, folder: Path) -> str:
        """A repository with one commit, whose id is returned."""
        repo = self.repos.setdefault(repo_id, Repo())
        return repo.commit(folder)

    def got(self) -> list[str]:
        """The names of the files whose bytes were asked for, in order of their names; forgets what was seen."""
        asked = [_FILE.fullmatch(one.removeprefix("GET ")) for one in self.seen]
        self.seen.clear()
        return sorted(found[3] for found in asked if found is not None)


@contextmanager
def hub_client(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path, token: str | None = None) -> Iterator[None]:
    """What ``HF_ENDPOINT``, ``HF_HUB_CACHE`` and ``HF_TOKEN`` do to a client, which reads some when it is imported."""
    from huggingface_hub import constants

    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
        patch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            patch.setenv("HF_TOKEN", token)
        yield


class _Answers(HubAnswers["HubFolders"]):
    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.seen.append(f"{self.command} {path}")
        if "/agent-harnesses" in path:
            return self._json({"standardEnvVars": [], "harnesses": {}})
        if path == "/hub/api/models":
            author = parse_qs(urlsplit(self.path).query)["author"][0]
            return self._json([{"id": name} for name in hub.repos if name.startswith(f"{author}/")])
        found = _FILE.fullmatch(path) or _API.fullmatch(path)
        repo = hub.repos.get(found[1]) if found else None
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        hub.sent_tokens.add(token)
        if found is None or repo is None or repo.token not in {None, token}:
            return self._error(401 if repo else 404, "RepoNotFound", "Repository not found")
        if repo.gated:
            return self._error(403, "GatedRepo", "Access to it is restricted")
        name = (found[2] if found.re is _FILE else found[3]) or "main"
        commit = repo.names.get(name, name)
        if commit not in repo.commits:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {name}")
        folder = repo.commits[commit]
        if found.re is _FILE:
            return self._file(folder / found[3], found[3], commit)
        if found[2] == "tree":
            return self._json([self._entry(place, folder) for place in sorted(folder.rglob("*")) if place.is_file()])
        return self._json({"id": found[1], "sha": commit})

    do_GET = do_HEAD = _answer  # noqa: N815

    def _entry(self, place: Path, folder: Path) -> dict[str, Any]:
        data, name = place.read_bytes(), place.relative_to(folder).as_posix()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": commit_of(name)}
        if place.suffix == ".safetensors":
            digest = self.hub.sha256.get(place.name) or hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
        return entry

    def _file(self, place: Path, name: str, commit: str) -> None:
        if not place.is_file():
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        data = place.read_bytes()
        first = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        status, body = (206, data[first:]) if "Range" in self.headers else (200, data)
        etag = hashlib.sha256(data).hexdigest()
        cut = self.command == "GET" and self.hub.cut.get(name, 0) > 0
        self._send(status, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, body, half=cut)
        if cut:
            self.hub.cut[name] -= 1
            self.close_connection = True
