"""The table of route x role x scope: what each route needs, and a request that it takes.

The roles of operations come from the rows of their table: one that is new there needs a call here.

``where`` says what has to be covered by a token's scopes: nothing (``any``), the path that is asked about (``path``),
or everything (``all``). Outside of the scopes a reading route answers 404, because nothing is there; a writing one 403.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from registry.api.openapi import json_routes
from registry.operations import table
from registry.operations.operation import Operation
from registry.rights import Role
from registry.schemas.protocol import API
from registry.services.local import LocalRegistry

IN: Final = "tiny/a"
OUT: Final = "tiny/b"
DIGEST: Final = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Call:
    """How a route is called about a path, and what scopes have to cover."""

    where: Literal["any", "path", "all"]
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    prepare: Callable[[LocalRegistry, str], Mapping[str, str]] = lambda _registry, _path: {}
    good: frozenset[int] = frozenset({200})
    """Statuses of those who may; where a whole request would be long, that of one that fails later on."""
    reads: bool = False
    """Whether it changes nothing, and is a POST because what it asks is long."""


@dataclass(frozen=True)
class Row:
    """A route: the role that it needs, and how it is called."""

    role: Role | None  # None: nobody has to say who they are
    where: Literal["any", "path", "all"]
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    prepare: Callable[[LocalRegistry, str], Mapping[str, str]] = lambda _registry, _path: {}
    good: frozenset[int] = frozenset({200})
    reads: bool = False


def _a_token(registry: LocalRegistry, _path: str) -> Mapping[str, str]:
    return {"id": registry.create_token("reader").token.id}


def _a_tag(registry: LocalRegistry, path: str) -> Mapping[str, str]:
    registry.tag(path, "gone")
    return {}


def _a_rule(registry: LocalRegistry, path: str) -> Mapping[str, str]:
    registry.set_retention(path, keep_last=100)
    return {}


def _a_rendering(registry: LocalRegistry, path: str) -> Mapping[str, str]:
    with registry.artifact(path, kind="lora") as artifact:
        return {"rendering": artifact.rendering.removeprefix("sha256:"), "path": "adapter_config.json"}


def _a_blob(registry: LocalRegistry, path: str) -> Mapping[str, str]:
    return {"digest": registry.bundle(path).links[-1].files[0].digest}


def _a_cut_publish(path: str) -> dict[str, Any]:
    empty = b64encode(b"{}").decode()
    return {"path": path, "config": empty, "header": empty, "files": []}


_NO_UPLOAD: Final = {"id": "none"}
PUBLISH: Final = _a_cut_publish("{path}")
BASE: Final = {"name": "new", "files": [], "documents": {}, "headers": {}}

CALLS: Final[dict[Operation[Any, Any], Call]] = {
    table.WHOAMI: Call("any"),
    table.BASES: Call("any"),
    table.TREE: Call("path", {"path": "{path}"}),
    table.LOG: Call("path", {"path": "{path}"}),
    table.DELETED: Call("path", {"path": "{path}"}),
    table.SHOW: Call("path", {"ref": "{path}"}),
    table.DELETE: Call("path", {"ref": "{path}@9"}, good=frozenset({404})),
    table.UNDELETE: Call("path", body={"ref": "{path}@9"}, good=frozenset({404})),
    table.DELETE_TREE: Call("path", {"path": "{path}", "dry_run": "true"}),
    table.UNDELETE_TREE: Call("path", body={"ref": "{path}"}, good=frozenset({404})),
    table.DELETE_BASE: Call("all", {"name": "tiny", "dry_run": "true"}),
    table.UNDELETE_BASE: Call("all", body={"ref": "tiny"}),
    table.RETENTION: Call("path", {"path": "{path}"}, prepare=_a_rule),
    table.SET_RETENTION: Call("path", body={"path": "{path}", "keep_last": 100}),
    table.CLEAR_RETENTION: Call("path", {"path": "{path}"}, prepare=_a_rule),
    table.RUN_RETENTION: Call("path", body={"path": "{path}"}, prepare=_a_rule),
    table.DIFF: Call("path", {"a": "{path}", "b": "{path}"}),
    table.DIFF_CHILDREN: Call("path", {"path": "{path}"}),
    table.STATS: Call("path", {"ref": "{path}"}),
    table.CHECK: Call("path", {"ref": "{path}", "engine": "vllm"}),
    table.RESOLVE: Call("path", {"ref": "{path}"}),
    table.SEARCH: Call("any"),
    table.TAGS: Call("path", {"path": "{path}"}),
    table.TAG: Call("path", body={"ref": "{path}", "tag": "new"}),
    table.UNDO_TAG: Call("path", body={"path": "{path}", "tag": "gone"}, prepare=_a_tag),
    table.UNTAG: Call("path", {"path": "{path}", "tag": "gone"}, prepare=_a_tag),
    table.ANNOTATE: Call("path", body={"ref": "{path}", "metrics": {"acc": 1.0}}),
    table.CARD: Call("path", {"ref": "{path}"}),
    table.EXPORT_CARD: Call("path", {"ref": "{path}"}),
    table.SET_CARD: Call("path", body={"path": "{path}", "text": "# a"}),
    table.RETRACT: Call("path", body={"ref": "{path}@9", "reason": "bad"}, good=frozenset({404})),
    table.EVENTS: Call("any"),
    table.TOKENS: Call("all"),
    table.CREATE_TOKEN: Call("all", body={"role": "reader"}, good=frozenset({201})),
    table.REVOKE_TOKEN: Call("all", prepare=_a_token),
    # Refused for what is there, after the rights to both names were checked.
    table.RENAME: Call("path", body={"path": "{path}/nothing", "name": "new"}, good=frozenset({404})),
    table.RENAME_BASE: Call("all", body={"name": "tiny", "new": "tiny"}, good=frozenset({400})),
    table.ALSO_KNOWN_AS: Call("all", body={"name": "tiny", "repo_id": "org/tiny"}),
    table.PROTECTED_TAGS: Call("any", {"base": "tiny"}),
    table.PROTECT_TAG: Call("all", body={"base": "tiny", "pattern": "release-*"}),
    table.PLAN_PUBLISH: Call("path", body=PUBLISH, good=frozenset({422})),
    table.COMMIT_PUBLISH: Call("path", body={"request": PUBLISH, "uploads": {}}, good=frozenset({422})),
    table.REBASE: Call("path", body={"ref": "{path}", "onto": "tiny"}, good=frozenset({400, 404})),
    table.COMBINE: Call("path", body={"path": "{path}", "sources": []}, good=frozenset({400})),
    table.REPLAY: Call("path", {"ref": "{path}"}),
    table.PLAN_BASE: Call("all", body=BASE, good=frozenset({422})),
    table.COMMIT_BASE: Call("all", body={"request": BASE, "uploads": {}}, good=frozenset({422})),
    table.RETABLE: Call("all", body={"base": "tiny"}),
    table.DENSE_STATS: Call("path", body={"ref": "{path}"}),
    table.MEASURE_BASE: Call("all", body={"base": "tiny"}),
    table.BUNDLE: Call("path", {"ref": "{path}"}),
    table.NARROW: Call("any", body={"base": "tiny", "values": "", "dtypes": []}, good=frozenset({400})),
    table.WHERE: Call("any", body={"names": ["tiny/*@prod"]}, reads=True),
    table.FIND_HASHES: Call("any", {"hashes": "1a2b3c4d5e6f"}),
    table.SUBTREE: Call("path", {"path": "{path}"}),
    table.MATERIALISATIONS: Call("path", {"ref": "{path}"}),
    table.MATERIALISE: Call("path", body={"ref": "{path}"}, good=frozenset({200, 201})),
    table.DROP_MATERIALISATION: Call("path", {"which": "{path}", "kind": "merged"}, good=frozenset({404})),
    table.GC: Call("all", body={"dry_run": True}),
    table.FSCK: Call("all", body={}),
    table.DU: Call("path", {"path": "{path}"}),
    table.LIST_JOBS: Call("any"),
    table.HEALTH: Call("all"),
    table.RUNNING: Call("path", {"ref": "{path}"}),
    # Of names outside of its scopes nothing is kept: test_running.py.
    table.REPORT: Call("any", body={"id": "0" * 32, "kind": "folder", "name": "folder=/models"}),
}
BY_HAND: Final[dict[tuple[str, str], Row]] = {
    ("GET", "/healthz"): Row(None, "any"),
    ("GET", "/readyz"): Row(None, "any"),
    ("GET", "/metrics"): Row(None, "any"),
    ("GET", "/api/v1"): Row("reader", "any"),
    ("GET", "/api/v1/openapi.json"): Row("reader", "any"),
    ("POST", "/api/v1/uploads"): Row("writer", "any", body={"digest": DIGEST, "size": 3}, good=frozenset({201})),
    ("GET", "/api/v1/uploads/{id}"): Row("writer", "any", prepare=lambda *_: _NO_UPLOAD, good=frozenset({404})),
    ("DELETE", "/api/v1/uploads/{id}"): Row("writer", "any", prepare=lambda *_: _NO_UPLOAD, good=frozenset({404})),
    ("PUT", "/api/v1/uploads/{id}/parts/{number}"): Row(
        "writer", "any", prepare=lambda *_: {"id": "none", "number": "1"}, good=frozenset({404})
    ),
    ("GET", "/api/v1/operations/{id}"): Row("reader", "any", prepare=lambda *_: _NO_UPLOAD, good=frozenset({404})),
    ("GET", "/api/v1/events/stream"): Row("reader", "any", {"once": "true"}),
    ("GET", "/api/v1/blobs/{digest}"): Row("reader", "path", {"ref": "{path}"}, prepare=_a_blob),
    ("HEAD", "/api/v1/blobs/{digest}"): Row("reader", "path", {"ref": "{path}"}, prepare=_a_blob),
    ("GET", "/api/v1/artifacts"): Row("reader", "path", {"ref": "{path}"}),
    ("GET", "/api/v1/artifacts/{rendering}/{path}"): Row("reader", "path", {"ref": "{path}"}, prepare=_a_rendering),
    ("HEAD", "/api/v1/artifacts/{rendering}/{path}"): Row("reader", "path", {"ref": "{path}"}, prepare=_a_rendering),
}
TABLE: Final[dict[tuple[str, str], Row]] = BY_HAND | {
    (operation.method, API + operation.address): Row(operation.right.role, **vars(CALLS[operation]))
    for operation in table.OPERATIONS
}

__all__ = ["IN", "OUT", "TABLE", "Row", "json_routes"]
