"""Examples of combinations: weighted sums of revisions."""

from __future__ import annotations

from typing import Any, Final

_DIGEST: Final = "sha256:" + "ab" * 32
SOURCE: Final = {"reference": "llama/support/french@1", "digest": _DIGEST, "weight": 0.5}
_AGAIN: Final = {"reference": "llama/support/mixed@1", "state": "same", "relative_difference": 0.0}
_REQUEST: Final = {
    "sources": [{"ref": "llama/support/french@1", "weight": 0.5}, {"ref": "llama/support/shop@1", "weight": 0.5}],
    "path": "llama/support/mixed",
    "dry_run": True,
}


def combination_examples(revision: dict[str, Any]) -> dict[str, Any]:
    """By the name of the schema; ``revision`` is the example of a summary."""
    return {
        "CombinedOf": SOURCE,
        "SourceWeight": _REQUEST["sources"][0],  # type: ignore[index]
        "CombineRequest": _REQUEST,
        "CombinedSource": {**SOURCE, "frobenius": 1.25},
        "Combined": {
            "path": "llama/support/mixed",
            "over": "llama/support@2",
            "over_digest": _DIGEST,
            "sources": [{**SOURCE, "frobenius": 1.25}],
            "frobenius": 1.25,
            "energy_ratio": 1.0,
            "rank": 16,
            "parameters": 4096,
            "size": 16896,
            "truncation": None,
            "notices": [],
            "revision": revision,
            "created": True,
        },
        "ReplayRequest": {"ref": "llama/support/mixed@1"},
        "ReplayedCombination": _AGAIN,
        "Replayed": {"reference": "llama/support/mixed@1", "combinations": [_AGAIN]},
        "SourceClaim": {"ref": f"llama/support/french@{_DIGEST}", "weight": 0.5},
        "Truncated": {"rank": 16, "max_error": None},
    }
