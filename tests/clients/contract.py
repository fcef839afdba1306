"""What clients ask of a Hub, and what the answer may be: the tables of the contract, held against what was asked.

A client asks for files that a repo may lack and goes on without; everything else that it asks for is there. What it
pushes is taken, or refused by a status whose sentence it shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import unquote

import httpx

from tests.kit.shim import Seen

_REPO: Final = r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+"
ROUTES: Final = {
    "resolve": rf"(HEAD|GET) /{_REPO}/resolve/[^/]+/(?P<file>.+)",
    "info": rf"GET /api/models/{_REPO}(/revision/[^/]+)?",
    "tree": rf"GET /api/models/{_REPO}/tree/[^/]+(/(?P<folder>.+))?",
    "refs": rf"GET /api/models/{_REPO}/refs",
    "commits": rf"GET /api/models/{_REPO}/commits/[^/]+",
    "harnesses": r"GET /api/agent-harnesses",
    "publisher": r"GET /api/organizations/[A-Za-z0-9_.-]+/overview",
}
"""All that the clients ask for; paths below the endpoint."""

_TAKEN: Final = frozenset({200})
_THERE: Final = frozenset({200, 409})  # 409: there is one, which clients take for an answer
WRITES: Final = {
    "create": (r"POST /api/repos/create", _THERE),
    "yaml": (r"POST /api/validate-yaml", _TAKEN),
    "preupload": (rf"POST /api/models/{_REPO}/preupload/[^/]+", _TAKEN),
    "commit": (rf"POST /api/models/{_REPO}/commit/[^/]+", _TAKEN),
    "batch": (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _TAKEN),
    "part": (rf"PUT /{_REPO}\.git/info/lfs/parts/[0-9a-f]+/[0-9]+", _TAKEN),
    "complete": (rf"POST /{_REPO}\.git/info/lfs/complete/[0-9a-f]+", _TAKEN),
    "tag": (rf"POST /api/models/{_REPO}/tag/[^/]+", _THERE),
    "untag": (rf"DELETE /api/models/{_REPO}/tag/[^/]+", _TAKEN),
    "settings": (rf"PUT /api/models/{_REPO}/settings", _TAKEN),
    "branch": (rf"(POST|DELETE) /api/models/{_REPO}/branch/[^/]+", frozenset()),
    "delete": (r"DELETE /api/repos/delete", frozenset()),
    "move": (r"POST /api/repos/move", frozenset()),
    "squash": (rf"POST /api/models/{_REPO}/super-squash/[^/]+", frozenset()),
    "discussion": (rf"POST /api/models/{_REPO}/discussions", frozenset()),
    "whoami": (r"GET /api/whoami-v2", _TAKEN),
}
"""What clients ask for in order to push, and the answers that are no refusals."""

REFUSALS: Final = frozenset({403, 412, 413, 422})
"""Statuses whose sentences all clients show, and which they do not repeat."""
MISSING: Final = frozenset({"RepoNotFound", "RevisionNotFound", "EntryNotFound"})

MODEL: Final = frozenset(["adapter_config.json", "generation_config.json", "custom_generate/generate.py"])
SHARDED: Final = MODEL | {"model.safetensors"}
TOKENIZER: Final = frozenset(
    ["tokenizer.model", "added_tokens.json", "special_tokens_map.json", "additional_chat_templates"]
)
PIPELINE: Final = (
    MODEL | TOKENIZER | {"processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"}
)
# transformers 4.57 looks for a config.json beside the adapter before it looks at the base.
ADAPTER: Final = frozenset(
    ["generation_config.json", "custom_generate/generate.py", "tokenizer_config.json", "config.json"]
)
"""What each of the clients asks for and goes on without, as EntryNotFound."""

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def keeps_to(
    asked: Iterable[Seen],
    endpoint: str,
    *,
    without: frozenset[str] = frozenset(),
    token: str | None = None,
    refused: Sequence[int] = (),
) -> list[str]:
    """Check requests that went to an endpoint; their names in the contract, in order.

    ``without``: files whose lack the clients know. ``refused``: other statuses of 400 and more that are expected here.
    """
    view = httpx.URL(endpoint).path
    names, lacking = [], set()
    for one in asked:
        name, found = _named(one, view)
        names.append(name)
        entry = next((unquote(part) for part in found.groupdict().values() if part), "")
        if name == "publisher":  # of compiled kernels, by transformers 5.25: it goes on without them
            assert (one.status, one.code) == (404, "RepoNotFound"), one
        elif one.status == 404 and entry in without:
            lacking.add(one.target)
        else:
            assert one.status in refused or 200 <= one.status < 400, f"{one}, which is not in the contract"
    for target in lacking:
        _says_that_it_is_not_there(target, endpoint, token)
    return names


def pushes_keep_to(asked: Iterable[Seen], endpoint: str) -> list[str]:
    """Check requests of clients that push; their names in the contract, in order.

    Reads find something, or are told what is missing; writes are taken, or refused as the contract says.
    """
    view = httpx.URL(endpoint).path
    routes = ROUTES | {name: pattern for name, (pattern, _) in WRITES.items()}
    names = []
    for one in asked:
        name, _ = _named(one, view, routes)
        names.append(name)
        if name in WRITES:
            expected = one.status in WRITES[name][1] | REFUSALS
            assert not one.code, f"{one}: with a code, clients report that something does not exist"
        else:
            expected = 200 <= one.status < 400 or (one.status == 404 and one.code in MISSING)
        assert expected, f"{one}, which is not in the contract"
    return names


def _named(one: Seen, view: str, routes: Mapping[str, str] = ROUTES) -> tuple[str, re.Match[str]]:
    path = one.target.partition("?")[0]
    assert path.startswith(f"{view}/"), f"{one} has left {view}"
    for name, pattern in routes.items():
        if found := re.fullmatch(pattern, f"{one.method} {path.removeprefix(view)}"):
            return name, found
    raise AssertionError(f"{one} is not in the contract")


def _says_that_it_is_not_there(target: str, endpoint: str, token: str | None) -> None:
    """The headers that make clients go on, and not ask again for this commit."""
    given = {} if token is None else {"Authorization": f"Bearer {token}"}
    answer = httpx.get(httpx.URL(endpoint).join(target), headers=given)
    assert (answer.status_code, answer.headers.get("X-Error-Code")) == (404, "EntryNotFound"), target
    if "/resolve/" in target:
        assert _COMMIT.fullmatch(answer.headers["X-Repo-Commit"]), target
