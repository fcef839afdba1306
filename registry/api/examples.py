"""An example of each schema in the description of the API: what a demo registry was asked and answered.

`python -m tests.api.recorded` writes examples.json. What a registry on one machine does not answer stands here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Final

from registry.operations.operation import Listing
from registry.operations.table import OPERATIONS

_AT: Final = "2026-11-25T09:30:00Z"
_DIGEST: Final = "sha256:" + "5f" * 32
_OTHER: Final = "sha256:" + "a1" * 32

EXAMPLES: Final[dict[str, Any]] = {
    **json.loads((files(__package__) / "examples.json").read_text(encoding="utf-8")),
    "About": {"name": "adapter-registry", "version": "0.3.0", "protocol": 1},
    "Alive": {"alive": True},
    "ArtifactPlan": {
        "reference": "llama/support@3",
        "kind": "lora",
        "base": "llama",
        "since": None,
        "plan": {
            "format": 1,
            "kind": "lora",
            "base": _OTHER,
            "base_files": _DIGEST,
            "table": _DIGEST,
            "links": [{"revision": _DIGEST, "coefficient": 1.0}],
            "since": None,
            "dtype": None,
            "ranks": None,
            "uniform": False,
            "base_repo": "llama/_",
        },
        "plan_digest": _DIGEST,
        "rendering": _OTHER,
        "numerics": "0123456789abcdef",
        "lineage": [
            {"reference": "llama/support@3", "number": 3, "digest": _DIGEST, "rank": 16, "scalings": [2.0]},
        ],
        "notices": [],
        "truncation": None,
        "torch": "2.13.0",
        "version": "0.3.0",
        "artifact_format": 3,
        "files": [{"path": "adapter_config.json", "size": 512, "etag": "5f" * 32, "header": None}],
    },
    "Identity": {
        "url": "https://registry.team",
        "name": "ci of support",
        "role": "writer",
        "scopes": ["llama/support"],
        "token": "tk5f2c9a",
        "expires_at": None,
        "version": "0.3.0",
        "service_version": "0.3.0",
    },
    "JobSummary": {
        "id": "op7d1e40",
        "kind": "materialise",
        "state": "failed",
        "subject": "llama/support@3",
        "actor": "ci of support",
        "token": "tk5f2c9a",
        "stage": "writing",
        "done": 16777216,
        "total": 33564672,
        "created_at": _AT,
        "updated_at": _AT,
        "code": "unavailable",
        "detail": "The store did not answer for 30 seconds.",
    },
    "Problem": {
        "type": "urn:adapter-registry:error:not_found",
        "title": "The named base model, adapter, revision, tag or file does not exist.",
        "status": 404,
        "detail": "There is no adapter llama/suport; did you mean llama/support?",
        "code": "not_found",
        "kind": "NotFoundError",
        "request": "3f0c9d2a7b",
        "retry_after": None,
    },
    "Ready": {"ready": True, "database": "ok", "store": "ok"},
    "UndoTagRequest": {"path": "llama/support", "tag": "prod"},
}


def _own_examples() -> Iterator[tuple[str, Any]]:
    """Of schemas that bring theirs, as pydantic has it."""
    for operation in OPERATIONS:
        for schema in (operation.request, operation.item if isinstance(operation, Listing) else operation.answer):
            extra = getattr(schema, "model_config", {}).get("json_schema_extra")
            if isinstance(extra, dict):
                yield schema.__name__, extra["example"]


EXAMPLES.update(_own_examples())
