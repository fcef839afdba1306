"""The table of route x role x scope: what each route needs, and a request that it takes.

``where`` says what has to be covered by a token's scopes: nothing (``any``), the path that is asked about (``path``),
or everything (``all``). Outside of the scopes a reading route answers 404, because nothing is there; a writing one 403.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from registry.api.openapi import json_routes
from registry.rights import Role
from registry.services.local import LocalRegistry

IN: Final = "tiny/a"
OUT: Final = "tiny/b"
DIGEST: Final = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Row:
    """A route: the role that it needs, what scopes have to cover, and how it is called about a path."""

    role: Role | None  # None: nobody has to say who they are
    where: Literal["any", "path", "all"]
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    prepare: Callable[[LocalRegistry, str], Mapping[str, str]] = lambda _registry, _path: {}
    good: frozenset[int] = frozenset({200})
    """Statuses of those who may; where a whole request would be long, that of one that fails later on."""


def _a_token(registry: LocalRegistry, _path: str) -> Mapping[str, str]:
    return {"id": registry.create_token("reader").token.id}


def _a_tag(registry: LocalRegistry, path: str) -> Mapping[str, str]:
    registry.tag(path, "gone")
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

TABLE: Final[dict[tuple[str, str], Row]] = {
    ("GET", "/healthz"): Row(None, "any"),
    ("GET", "/readyz"): Row(None, "any"),
    ("GET", "/metrics"): Row(None, "any"),
    ("GET", "/api/v1"): Row("reader", "any"),
    ("GET", "/api/v1/openapi.json"): Row("reader", "any"),
    ("GET", "/api/v1/whoami"): Row("reader", "any"),
    ("GET", "/api/v1/bases"): Row("reader", "any"),
    ("GET", "/api/v1/tree"): Row("reader", "path", {"path": "{path}"}),
    ("GET", "/api/v1/log"): Row("reader", "path", {"path": "{path}"}),
    ("GET", "/api/v1/revisions"): Row("reader", "path", {"ref": "{path}"}),
    ("DELETE", "/api/v1/revisions"): Row("writer", "path", {"ref": "{path}@9"}, good=frozenset({404})),
    ("GET", "/api/v1/resolve"): Row("reader", "path", {"ref": "{path}"}),
    ("GET", "/api/v1/search"): Row("reader", "any"),
    ("PUT", "/api/v1/tags"): Row("writer", "path", body={"ref": "{path}", "tag": "new"}),
    ("DELETE", "/api/v1/tags"): Row("writer", "path", {"path": "{path}", "tag": "gone"}, prepare=_a_tag),
    ("POST", "/api/v1/annotations"): Row("writer", "path", body={"ref": "{path}", "metrics": {"acc": 1.0}}),
    ("POST", "/api/v1/retractions"): Row(
        "writer", "path", body={"ref": "{path}@9", "reason": "bad"}, good=frozenset({404})
    ),
    ("GET", "/api/v1/events"): Row("reader", "any"),
    ("GET", "/api/v1/tokens"): Row("admin", "all"),
    ("POST", "/api/v1/tokens"): Row("admin", "all", body={"role": "reader"}, good=frozenset({201})),
    ("DELETE", "/api/v1/tokens/{id}"): Row("admin", "all", prepare=_a_token),
    ("GET", "/api/v1/protected-tags"): Row("reader", "any", {"base": "tiny"}),
    ("PUT", "/api/v1/protected-tags"): Row("admin", "all", body={"base": "tiny", "pattern": "release-*"}),
    ("POST", "/api/v1/publishes/plan"): Row("writer", "path", body=PUBLISH, good=frozenset({422})),
    ("POST", "/api/v1/publishes"): Row(
        "writer", "path", body={"request": PUBLISH, "uploads": {}}, good=frozenset({422})
    ),
    ("POST", "/api/v1/bases/plan"): Row("writer", "all", body=BASE, good=frozenset({422})),
    ("POST", "/api/v1/bases"): Row("writer", "all", body={"request": BASE, "uploads": {}}, good=frozenset({422})),
    ("POST", "/api/v1/uploads"): Row("writer", "any", body={"digest": DIGEST, "size": 3}, good=frozenset({201})),
    ("GET", "/api/v1/uploads/{id}"): Row("writer", "any", prepare=lambda *_: _NO_UPLOAD, good=frozenset({404})),
    ("DELETE", "/api/v1/uploads/{id}"): Row("writer", "any", prepare=lambda *_: _NO_UPLOAD, good=frozenset({404})),
    ("PUT", "/api/v1/uploads/{id}/parts/{number}"): Row(
        "writer", "any", prepare=lambda *_: {"id": "none", "number": "1"}, good=frozenset({404})
    ),
    ("GET", "/api/v1/operations/{id}"): Row("reader", "any", prepare=lambda *_: _NO_UPLOAD, good=frozenset({404})),
    ("GET", "/api/v1/bundles"): Row("reader", "path", {"ref": "{path}"}),
    ("GET", "/api/v1/subtree"): Row("reader", "path", {"path": "{path}"}),
    ("GET", "/api/v1/blobs/{digest}"): Row("reader", "path", {"ref": "{path}"}, prepare=_a_blob),
    ("HEAD", "/api/v1/blobs/{digest}"): Row("reader", "path", {"ref": "{path}"}, prepare=_a_blob),
    ("GET", "/api/v1/artifacts"): Row("reader", "path", {"ref": "{path}"}),
    ("GET", "/api/v1/artifacts/{rendering}/{path}"): Row("reader", "path", {"ref": "{path}"}, prepare=_a_rendering),
    ("HEAD", "/api/v1/artifacts/{rendering}/{path}"): Row("reader", "path", {"ref": "{path}"}, prepare=_a_rendering),
    ("GET", "/api/v1/materialisations"): Row("reader", "path", {"ref": "{path}"}),
    ("POST", "/api/v1/materialisations"): Row("writer", "path", body={"ref": "{path}"}, good=frozenset({200, 201})),
    ("DELETE", "/api/v1/materialisations"): Row(
        "writer", "path", {"which": "{path}", "kind": "merged"}, good=frozenset({404})
    ),
    ("POST", "/api/v1/gc"): Row("admin", "all", body={"dry_run": True}),
    ("POST", "/api/v1/fsck"): Row("admin", "all", body={}),
}

__all__ = ["IN", "OUT", "TABLE", "Row", "json_routes"]
