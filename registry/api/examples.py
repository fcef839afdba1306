"""One example a schema, for the description of the API. A test holds each against its schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from registry.api.combination_examples import combination_examples
from registry.api.delta_examples import DELTA_EXAMPLES
from registry.api.parent_examples import PARENT_EXAMPLES
from registry.api.retention_examples import RETENTION_EXAMPLES
from registry.api.service_examples import SERVICE_EXAMPLES
from registry.api.statistics_examples import DELTA, STATISTICS_EXAMPLES
from registry.operations.operation import Listing
from registry.operations.table import OPERATIONS

_AT: Final = "2026-11-25T09:30:00Z"
_DIGEST: Final = "sha256:" + "5f" * 32
_OTHER: Final = "sha256:" + "a1" * 32
_FILES: Final = [{"path": "adapter_model.safetensors", "size": 33564672, "digest": _DIGEST}]
_LINEAGE: Final = [
    {"reference": "llama", "digest": _OTHER, "number": None, "rank": None, "newest": None},
    {"reference": "llama/support@3", "digest": _DIGEST, "number": 3, "rank": 16, "newest": 4},
]
_BASE: Final = {
    "name": "llama",
    "digest": _OTHER,
    "table_digest": _DIGEST,
    "architecture": "LlamaForCausalLM",
    "table_source": "transformers 5.24.0",
    "parameters": 8030261248,
    "tensors": 291,
    "size": 16060556376,
    "files": [{"path": "model-00001-of-00004.safetensors", "size": 4976698672, "digest": _OTHER}],
    "adapters": 12,
    "created_at": _AT,
    "notices": [],
}
_REVISION: Final = {
    "reference": "llama/support@3",
    "path": "llama/support",
    "number": 3,
    "digest": _DIGEST,
    "parent": "llama",
    "behind": False,
    "rank": 16,
    "parameters": 8388608,
    "size": 33564672,
    "message": "more French tickets",
    "author": "ada",
    "created_at": _AT,
    "tags": ["prod"],
    "metrics": {"acc": 0.91},
    "annotations": {"data": "tickets-2026-10"},
    "trained_on": "/models/llama",
    "notices": [],
    "retracted": None,
}
_USE: Final = {"last_used_at": _AT, "uses": 12, "by_interface": {"fetch": 4, "hub": 7, "vllm": 1}, "tokens": 2}
_KEPT = {"name": "lm_head.weight", "how": "replaced", "moved": False}
_ANSWER = {
    "engine": "vllm", "version": "0.33.0", "loads": False, "reasons": ["rank"], "rank": 24, "max_lora_rank": 16
}  # fmt: skip
_REASON: Final = {
    "code": "rank",
    "modules": [],
    "sentence": "It has rank 24 but vLLM accepts at most 16.",
    "remedy": "Start vLLM with --max-lora-rank 32, or allow an error with --max-error, such as 0.05, to have the "
    "adapter truncated.",
    "source": "vllm/config/lora.py (LoRAConfig.max_lora_rank, MaxLoRARanks)",
}
_PUBLISH: Final = {
    "path": "llama/support",
    "parent": None,
    "receipt": None,
    "message": "more French tickets",
    "metrics": {"acc": 0.91},
    "tags": ["prod"],
    "annotations": {"data": "tickets-2026-10"},
    "config": "e30=",
    "header": "AgAAAAAAAAB7fQ==",
    "files": _FILES,
    "left_out": [{"path": "optimizer.pt", "reason": "state of the trainer"}],
    "origin": None,
}
_ADD_BASE: Final = {
    "name": "llama",
    "files": [{"path": "model.safetensors", "size": 16060522248, "digest": _OTHER}],
    "documents": {"config.json": "e30="},
    "headers": {"model.safetensors": "AgAAAAAAAAB7fQ=="},
    "left_out": [],
    "table": None,
    "origin": None,
}
_PUBLISHED: Final = {
    "revision": _REVISION,
    "created": True,
    "parent_digest": _OTHER,
    "parent_reason": "the only one that the path has",
    "left_out": [],
    "bytes_stored": 33564672,
    "registry": "https://registry.team",
}
_TOKEN: Final = {
    "id": "tk5f2c9a",
    "name": "ci of support",
    "role": "writer",
    "scopes": ["llama/support"],
    "created_at": _AT,
    "created_by": "ada",
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": _AT,
}
_CARD: Final = {
    "path": "llama/support",
    "text": "---\nlicense: mit\n---\n# Support\n",
    "digest": _OTHER,
    "state": {"source": "edited", "digest": _OTHER, "edited_at": _AT, "edited_by": "ada"},
    "metadata": {"license": "mit"},
}
_OPERATION: Final = {
    "id": "op7d1e40",
    "kind": "publish",
    "state": "running",
    "stage": "reading back",
    "done": 16777216,
    "total": 33564672,
    "created_at": _AT,
    "updated_at": _AT,
    "result": None,
    "problem": None,
}
_MATERIALISATION: Final = {
    "id": "mat_5f2c9a7d1e40",
    "reference": "llama/support@3",
    "digest": _DIGEST,
    "kind": "merged",
    "rendering": _OTHER,
    "numerics": "0123456789abcdef",
    "size": 16060556376,
    "files": 9,
    "created_at": _AT,
    "created_by": "ada",
    "expires_at": _AT,
}
_BLOB: Final = {
    "path": "adapter_model.safetensors",
    "digest": _DIGEST,
    "size": 33564672,
    "blocks_digest": _OTHER,
}
_LINK_OF_RECEIPT: Final = {
    "reference": "llama/support@3",
    "number": 3,
    "digest": _DIGEST,
    "rank": 16,
    "scalings": [2.0],
}

_REBASED = {
    "reference": "llama/support/french@1", "parent": "llama/support@2", "onto": "llama/support@3", "moved": DELTA,
    "own_frobenius": 2.5, "values": [_KEPT], "refused": None, "revision": _REVISION, "created": True,
}  # fmt: skip
EXAMPLES: Final[dict[str, Any]] = {
    "About": {"name": "adapter-registry", "version": "0.3.0", "protocol": 1},
    "Alive": {"alive": True},
    "AnnotateRequest": {"ref": "llama/support@3", "metrics": {"acc": 0.91}, "annotations": {"checked": "yes"}},
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
        "lineage": [_LINK_OF_RECEIPT],
        "notices": [],
        "truncation": None,
        "torch": "2.13.0",
        "version": "0.3.0",
        "artifact_format": 3,
        "files": [{"path": "adapter_config.json", "size": 512, "etag": "5f" * 32, "header": None}],
    },
    "BaseAdded": {
        "base": _BASE,
        "created": True,
        "bytes_stored": 16060556376,
        "stored_by": "copy",
        "left_out": [],
        "registry": "https://registry.team",
    },
    "BaseCommit": {"request": _ADD_BASE, "uploads": {_OTHER: "0b6f3c8de1a94f7c9d25a1e87c4f3b60"}},
    "BasePlan": {"existing": None, "missing": [_OTHER]},
    "BaseRequest": _ADD_BASE,
    "BaseSummary": _BASE,
    "Bundle": {
        "reference": "llama/support@3",
        "base": {"summary": _BASE, "files_digest": _DIGEST, "files": [_BLOB], "index": _BLOB, "table": _BLOB},
        "links": [
            {
                "reference": "llama/support@3",
                "digest": _DIGEST,
                "files": [_BLOB],
                "summary": _REVISION,
                "rank": 16,
                "scalings": [2.0],
                "manifest": "{}",
            }
        ],
    },
    "Checked": {
        "deep": True,
        "blobs": 1204,
        "bytes": 98765432100,
        "damage": [
            {
                "digest": _DIGEST,
                "key": "blobs/5f/5f5f",
                "problem": "its object is missing",
                "takes_down": ["llama/support@3"],
            }
        ],
        "orphans": 0,
    },
    "Collected": {
        "dry_run": False,
        "blobs": [{"digest": _DIGEST, "key": "blobs/5f/5f5f", "size": 33564672}],
        "uploads": 1,
        "bytes": 33564672,
        "kept_for_grace": 2,
    },
    "Deleted": {
        "reference": "llama/support@3",
        "digest": _DIGEST,
        "tags": ["llama/support@prod"],
        "until": _AT,
        "undone": False,
        "tags_elsewhere": [],
        "done": True,
        "use": _USE,
    },
    "DeletedTree": {
        "path": "llama/support",
        "revisions": ["llama/support@3", "llama/support/french@1"],
        "tags": ["llama/support@prod"],
        "done": True,
        "until": _AT,
        "undone": False,
        "tags_elsewhere": [],
        "scopes": [],
        "protected_tags": [],
        "use": _USE,
        "used": [{"reference": "llama/support@3", **_USE}],
    },
    "Event": {
        "at": _AT,
        "action": "tag",
        "subject": "llama/support@3",
        "actor": "ada",
        "detail": {"tag": "prod"},
        "token": "tk5f2c9a",
        "source": "192.0.2.7",
    },
    "FsckRequest": {"deep": True},
    "GcRequest": {"dry_run": True},
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
    "MaterialiseRequest": {"ref": "llama/support@3", "kind": "merged", "expires_in": 2592000},
    "Materialisation": _MATERIALISATION,
    "Materialised": {"materialisation": _MATERIALISATION, "created": True, "bytes_stored": 16058000000},
    **RETENTION_EXAMPLES,
    **SERVICE_EXAMPLES,
    "Operation": _OPERATION,
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
    "ProtectRequest": {"base": "llama", "pattern": "release-*", "remove": False},
    "ProtectedTag": {"base": "llama", "pattern": "release-*"},
    "PublishCommit": {"request": _PUBLISH, "uploads": {_DIGEST: "0b6f3c8de1a94f7c9d25a1e87c4f3b60"}},
    "PublishPlan": {
        "parent": "llama",
        "parent_digest": _OTHER,
        "parent_reason": "the only one that the path has",
        "missing": [_DIGEST],
        "digest": _DIGEST,
        "existing": None,
        "rank": 16,
        "parameters": 4194304,
        "notices": [],
    },
    "PublishRequest": _PUBLISH,
    "Published": _PUBLISHED,
    "Ready": {"ready": True, "database": "ok", "store": "ok"},
    "MeasureBaseRequest": {"base": "llama"},
    "BaseMeasured": {"base": "llama", "table_digest": _OTHER, "norms": 146, "measured": True},
    "RetableRequest": {"base": "llama"},
    "Retabled": {
        "base": _BASE,
        "previous": _OTHER,
        "changed": True,
        "changes": ["ties: 2 changed (for example cls.predictions.decoder.bias)"],
        "revisions": 12,
        "materialisations": ["llama/support@3 as merged"],
    },
    "Resolved": {
        "reference": "llama/support@3",
        "digest": _DIGEST,
        "base": "llama",
        "base_digest": _OTHER,
        "lineage": _LINEAGE,
    },
    "RetractRequest": {"ref": "llama/support@3", "reason": "trained on the test set", "undo": False, "dry_run": False},
    "Retracted": {
        "reference": "llama/support@3",
        "reason": "trained on the test set",
        "descendants": ["llama/support/french@1"],
        "tags": ["llama/support@prod"],
        "done": True,
        "use": _USE,
        "used": [{"reference": "llama/support@3", **_USE}],
    },
    "RevisionSummary": _REVISION,
    "Card": _CARD,
    "SetCardRequest": {"path": "llama/support", "text": "# Support\n", "expected": _OTHER},
    "Shown": {
        "revision": _REVISION,
        "base": _BASE,
        "lineage": _LINEAGE,
        "targets": [{"name": "q_proj", "modules": 32, "ranks": [16], "scalings": [2.0]}],
        "files": _FILES,
        "share_of_model": 0.0021,
        "repo_id": "llama/support",
        "children": {
            "total": 1,
            "adapters": [{"path": "llama/support/french", "revisions": 1, "newest": "llama/support/french@1"}],
        },
        "tag_history": [
            {
                "tag": "prod",
                "points_at": "llama/support@3",
                "moves": [{"at": _AT, "actor": "ada", "old": "llama/support@2", "new": "llama/support@3"}],
            }
        ],
        "materialisations": [_MATERIALISATION],
        "use": _USE,
        "engines": [_ANSWER],
    },
    "ValueDifference": {"name": "lora_alpha", "a": 16, "b": 32, "in_a": True, "in_b": True},
    "MetricDifference": {"name": "acc", "a": 0.5, "b": 0.75, "difference": 0.25},
    "TargetDifference": {
        "name": "k_proj",
        "a": None,
        "b": {"name": "k_proj", "modules": 32, "ranks": [16], "scalings": [2.0]},
    },
    "FileDifference": {"path": "README.md", "a": None, "b": {"path": "README.md", "size": 120, "digest": _OTHER}},
    "LineageDifference": {"common": _LINEAGE[0], "a": [_LINEAGE[1]], "b": [], "pinned": []},
    "RebasedValue": _KEPT,
    "Rebased": _REBASED,
    **combination_examples(_REVISION),
    **STATISTICS_EXAMPLES,
    **PARENT_EXAMPLES,
    "EngineReason": _REASON,
    "EngineAnswer": _ANSWER,
    "EngineCheck": {
        "reference": "llama/support@3",
        "engine": "vllm",
        "version": "0.33.0",
        "loads": False,
        "reasons": [_REASON],
        "rank": 24,
        "max_lora_rank": 16,
        "would_do": "registry fetch llama/support@3 --for vllm --max-lora-rank 32",
    },
    **DELTA_EXAMPLES,
    "Difference": {
        "a": _REVISION,
        "b": _REVISION,
        "identical": True,
        "bases": [],
        "about": [],
        "config": [],
        "targets": [],
        "metrics": [],
        "annotations": [],
        "files": [],
        "lineage": {"common": _LINEAGE[1], "a": [], "b": [], "pinned": []},
    },
    "DeletedRevision": {
        "reference": "llama/support@2",
        "number": 2,
        "digest": _OTHER,
        "message": "trained on the wrong file",
        "deleted_at": _AT,
        "deleted_by": "ada",
        "until": _AT,
    },
    "TagRequest": {"ref": "llama/support@3", "tag": "prod", "expected": "@2"},
    "UndoTagRequest": {"path": "llama/support", "tag": "prod"},
    "Tagged": {"path": "llama/support", "tag": "prod", "reference": "llama/support@3", "previous": None},
    "Token": _TOKEN,
    "TokenCreated": {"token": _TOKEN, "secret": "SECRET"},
    "TokenRequest": {"name": "ci of support", "role": "writer", "scopes": ["llama/support"], "expires_in": 7776000},
    "Tree": {
        "roots": [
            {
                "path": "llama",
                "name": "llama",
                "revision": None,
                "children": [{"path": "llama/support", "name": "support", "revision": _REVISION, "children": []}],
            }
        ]
    },
    "UndeleteRequest": {"ref": "llama/support@3"},
    "Upload": {
        "id": "0b6f3c8de1a94f7c9d25a1e87c4f3b60",
        "digest": _DIGEST,
        "size": 33564672,
        "part_size": 16777216,
        "parts": 3,
        "there": [1],
        "urls": {},
        "expires_at": _AT,
    },
    "UploadRequest": {"digest": _DIGEST, "size": 33564672},
}


def _own_examples() -> Iterator[tuple[str, Any]]:
    """Of schemas that bring theirs, as pydantic has it."""
    for operation in OPERATIONS:
        for schema in (operation.request, operation.item if isinstance(operation, Listing) else operation.answer):
            extra = getattr(schema, "model_config", {}).get("json_schema_extra")
            if isinstance(extra, dict):
                yield schema.__name__, extra["example"]


EXAMPLES.update(_own_examples())
