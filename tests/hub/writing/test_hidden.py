"""What a token may not see is, to every route of the Hub views, as if it were not there."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from registry.hub import views
from tests.hub.writing.conftest import PAIR, Pushing, body, repo_of

HIDDEN, ABSENT = "tiny/two", "tiny/not"
ASKED: dict[str, Any] = {
    "paths-info": {"paths": ["adapter_config.json"]},
    "preupload": {"files": [{"path": PAIR[1], "size": 3_000, "sample": ""}]},
    "batch": {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": "0" * 64, "size": 3_000}]},
    "tag": {"tag": "prod"},
    "branch": {},
    "settings": {"private": False},
    "create": {"name": "{name}", "organization": "{namespace}"},
    "delete": {"name": "{name}", "organization": "{namespace}"},
    "move": {"fromRepo": "{namespace}/{name}", "toRepo": "tiny/other"},
    "validate-yaml": {"content": "", "repoType": "model"},
}
ROUTES = [
    (method, path)
    for methods, path, _ in (*views._ROUTES, *views._WRITES)
    for method in methods
    if ("{namespace}" in path or path in {"/api/repos/create", "/api/repos/delete", "/api/repos/move"})
    and "{upload}" not in path
]


def asked_for(method: str, path: str, repo: str, folder_files: dict[str, bytes]) -> tuple[str, dict[str, Any]]:
    namespace, name = repo.split("/")
    filled = {"namespace": namespace, "name": name, "kind": "models", "list": "x"}
    filled |= {"revision": "prod" if method == "DELETE" else "main", "path": "config.json"}
    address = re.sub(r"\{(\w+)(:rest)?\}", lambda found: filled[found[1]], path)
    if "/commit/" in path:
        return address, {"content": body(folder_files)}
    key = next((key for key in ASKED if f"/{key}" in path), None)
    if key is None or method in {"GET", "HEAD"}:
        return address, {}
    return address, {
        "json": {
            name: value.format(**filled) if isinstance(value, str) and "{" in value else value
            for name, value in ASKED[key].items()
        }
    }


def told(answer: httpx.Response, repo: str, path: str) -> tuple[int, str, list[tuple[str, str]]]:
    def plain(text: str) -> str:
        return re.sub(r"\b[0-9a-f]{32}\b", "ID", text.replace(repo, "REPO").replace(path, "PATH"))

    changing = {"date", "content-length", "x-request-id"}
    headers = sorted((name, plain(value)) for name, value in answer.headers.items() if name not in changing)
    return answer.status_code, plain(answer.text), headers


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{method} {path}" for method, path in ROUTES])
def test_what_is_hidden_is_as_if_it_were_absent(pushing: Pushing, method: str, path: str) -> None:
    files = {name: (pushing.adapter(seed=1) / name).read_bytes() for name in PAIR}
    before = len(pushing.revisions(HIDDEN))
    with pushing.client("writer of a") as client:
        answers = []
        for place in (HIDDEN, ABSENT):
            address, given = asked_for(method, path, repo_of(place), files)
            answers.append(told(client.request(method, address, **given), repo_of(place), place))
    assert answers[0] == answers[1]
    assert answers[0][0] >= 400
    assert len(pushing.revisions(HIDDEN)) == before


def test_who_sees_it_is_answered(pushing: Pushing) -> None:
    """So the requests above are ones that could tell."""
    files = {name: (pushing.adapter(seed=1) / name).read_bytes() for name in PAIR}
    answered = []
    with pushing.client("writer") as client:
        for method, path in ROUTES:
            address, given = asked_for(method, path, repo_of(HIDDEN), files)
            if client.request(method, address, **given).status_code < 400:
                answered.append(f"{method} {path}")
    for part in ("resolve", "raw", "auth-check", "revision", "refs", "paths-info", "commits", "preupload", "commit/"):
        assert any(part in one for one in answered), part
    for part in ("POST {}/tag", "DELETE {}/tag", "PUT {}/settings", "GET {}"):
        assert any(one.startswith(part.format("/api/models/{namespace}/{name}")) for one in answered), part
