"""A Hub with models and data sets, as the Hub on the Internet answers: it redirects to addresses of its own by relative
paths, keeps large files at another host, gives lists in pages with absolute addresses, and sets cookies.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.kit.hub_folder import commit_of
from tests.kit.hub_server import HubAnswers, HubServer

_WORD = "revision|tree|refs|paths-info"
_API = re.compile(rf"/hub/api/((?:models|datasets)/[^/]+(?:/(?!{_WORD})[^/]+)?)(?:/({_WORD})(?:/([^/]+)(/.*)?)?)?")
_FILE = re.compile(r"/hub/((?:datasets/)?(?:[^/]+/)?[^/]+)/(?:resolve|raw)(-cache)?/([^/]+)/(.+)")
_LARGE = 1000


class ElsewhereStore(HubServer):
    """Where large files are: what an address says is the file."""

    def __init__(self) -> None:
        super().__init__(_Stored)
        self.files: dict[str, bytes] = {}
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        """By another host name than those of other servers, since clients send tokens to all ports of a host."""
        return super().url.replace("127.0.0.1", "localhost")


class _Stored(HubAnswers["ElsewhereStore"]):
    def _answer(self) -> None:
        self.hub.headers.append({name.lower(): value for name, value in self.headers.items()})
        self._send(200, {}, self.hub.files[self.path.rpartition("/")[2]])

    do_GET = do_HEAD = _answer  # noqa: N815


class OtherHub(HubServer):
    """The Hub. ``seen`` and ``headers`` tell what it was asked."""

    page = 2  # entries of a tree

    def __init__(self, store: ElsewhereStore) -> None:
        super().__init__(_Answers)
        self.store = store
        self.repos: dict[str, dict[str, bytes]] = {}
        self.headers: list[dict[str, str]] = []
        self.gated: set[str] = set()
        self.fails: int | None = None
        self.odd = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def add(self, repo: str, files: dict[str, bytes]) -> None:
        """A repo, as ``models/ORG/NAME``."""
        self.repos[repo] = files | {f"more/{number}.txt": b"%d" % number for number in range(self.page + 1)}


class _Answers(HubAnswers["OtherHub"]):
    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/agent-harnesses" in path:
            return self._json({"standardEnvVars": [], "harnesses": {}})
        hub.seen.append(f"{self.command} {self.path}")
        hub.headers.append({name.lower(): value for name, value in self.headers.items()})
        if hub.fails is not None:
            return self._error(hub.fails, "", "not now")
        file, api = _FILE.fullmatch(path), _API.fullmatch(path)
        repo = (file[1] if file[1].startswith("datasets/") else f"models/{file[1]}") if file else api[1] if api else ""
        if repo not in hub.repos:
            return self._error(401, "RepoNotFound", "Invalid username or password.")
        if repo in hub.gated:
            return self._error(403, "GatedRepo", "Access to it is restricted.")
        commit = commit_of(repo)
        revision = (file[3] if file else api[3] if api else None) or "main"
        if revision not in {"main", commit}:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if file:
            return self._file(file, hub.repos[repo], commit)
        assert api is not None
        return self._metadata(api, hub.repos[repo], commit, body)

    do_GET = do_HEAD = do_POST = _answer  # noqa: N815

    def _file(self, asked: re.Match[str], files: dict[str, bytes], commit: str) -> None:
        hub, data = self.hub, files.get(asked[4])
        if data is None:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        own = {"X-Repo-Commit": commit, "ETag": etag}
        known = {"X-Repo-Commit": commit, "X-Linked-Etag": etag, "X-Linked-Size": str(len(data))}
        if hub.odd in {"hub", "port"}:
            place = "https://huggingface.co" if hub.odd == "hub" else "http://127.0.0.1:9"
            return self._send(302, {"Location": f"{place}/x"}, b"")
        if len(data) > _LARGE:
            hub.store.files[etag.strip('"')] = data
            return self._send(302, {**known, "Location": f"{hub.store.url}/{etag.strip(chr(34))}"}, b"moved")
        if asked[2] is None or hub.odd == "circle":  # as to its cache: by a path, and the rest is said there
            there = re.sub("/(resolve|raw)/", r"/\1-cache/", self.path, count=1)
            return self._send(307, {"Location": there, "Set-Cookie": "seen=1; Path=/"}, b"moved")
        range_ = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if range_ is None:
            self.close_connection = hub.odd == "cut"
            return self._send(200, own | {"Content-Type": "text/html"}, data, half=hub.odd == "cut")
        first, last = int(range_[1]), min(int(range_[2] or len(data)), len(data) - 1)
        part = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return self._send(206, own | part, data[first : last + 1])

    def _metadata(self, asked: re.Match[str], files: dict[str, bytes], commit: str, body: bytes) -> None:
        entries = [_entry(name, data) for name, data in sorted(files.items())]
        folders = sorted({name.rpartition("/")[0] for name in files} - {""})
        every = [*entries, *({"type": "directory", "path": name, "oid": commit, "size": 0} for name in folders)]
        if asked[2] == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": commit}
            return self._json({"branches": [branch], "converts": [], "tags": []})
        if asked[2] == "paths-info":
            found = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
            return self._json([entry for entry in every if entry["path"] in found])
        if asked[2] != "tree":
            siblings = [{"rfilename": one["path"], "size": one["size"], "blobId": one["oid"]} for one in entries]
            return self._json({"id": asked[1].partition("/")[2], "sha": commit, "siblings": siblings})
        return self._tree(asked, every)

    def _tree(self, asked: re.Match[str], entries: list[dict[str, Any]]) -> None:
        hub, given = self.hub, parse_qs(urlsplit(self.path).query)
        folder = (asked[4] or "").strip("/")
        inside = [one for one in entries if not folder or one["path"].startswith(f"{folder}/")]
        if "recursive" not in given or given["recursive"][0].lower() == "false":
            inside = [one for one in inside if one["path"].rpartition("/")[0] == folder]
        start = int(given.get("cursor", ["0"])[0])
        page, headers = inside[start : start + hub.page], {"Content-Type": "application/json; charset=utf-8"}
        if start + hub.page < len(inside):
            address = f"{hub.url.removesuffix('/hub')}{urlsplit(self.path).path}"
            more = "&".join(f"{key}={value[0]}" for key, value in given.items() if key != "cursor")
            headers["Link"] = f'<{address}?{more}&cursor={start + hub.page}>; rel="next"'
        if hub.odd == "html":
            headers["Content-Type"] = "text/html"
        if hub.odd == "next":
            headers["Link"] = '<https://huggingface.co/api/models?cursor=1>; rel="next"'
        self._send(200, headers, json.dumps(page).encode() + b" " * (2000 if hub.odd == "large" else 0))


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": commit_of(name)}
    if len(data) > _LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
