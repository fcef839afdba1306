"""Examples of retention rules and of what they delete."""

from __future__ import annotations

from typing import Any, Final

_AT: Final = "2026-11-25T09:30:00Z"
_RULE: Final = {
    "path": "llama/support",
    "keep_last": 2,
    "keep_every": 1000,
    "keep_best": ["max:acc:1"],
    "keep_tagged": True,
    "set_at": _AT,
    "set_by": "ada",
}
RETENTION_EXAMPLES: Final[dict[str, Any]] = {
    "Retention": {
        "rule": _RULE,
        "revisions": ["llama/support@1", "llama/support@2"],
        "tags": [],
        "kept": 3,
        "reasons": [
            {"reason": "newest", "revisions": 1},
            {"reason": "last", "revisions": 2},
            {"reason": "best", "revisions": 1},
        ],
        "done": True,
        "until": _AT,
        "use": None,
    },
    "RetentionRule": _RULE,
}
