"""Examples of what a service tells of itself: its jobs, its replicas, how it is."""

from __future__ import annotations

from typing import Any, Final

_AT: Final = "2026-11-25T09:30:00Z"
_JOB: Final = {
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
}
_COUNTS: Final = {"pending": 2, "running": 1, "failed": 0, "oldest_pending_at": _AT}
_FIGURES: Final = {
    "cache_hits": 1204,
    "cache_misses": 96,
    "cache_bytes": 536870912,
    "cache_budget": 2147483648,
    "pool_in_use": 3,
    "pool_idle": 2,
    "pool_most": 20,
    "bodies": 4,
    "jobs": 1,
}
_REPLICA: Final = {
    "id": "5f2c9a7d1e400b6f",
    "host": "registry-0",
    "process": 17,
    "worker": 1,
    "version": "0.3.0",
    "processor": "AMD EPYC 7B13",
    "numerics": "0123456789abcdef",
    "started_at": _AT,
    "seen_at": _AT,
    "answers": True,
    "figures": _FIGURES,
}
_GC: Final = {
    "at": _AT,
    "action": "gc",
    "subject": "registry",
    "actor": "ada",
    "detail": {"blobs": 2, "bytes": 33564672, "uploads": 0, "materialisations": 0},
    "token": "tk5f2c9a",
    "source": "192.0.2.7",
}
_WEEK: Final = {"week": "2026-11-23", "bytes": 33564672}
SERVICE_EXAMPLES: Final[dict[str, Any]] = {
    "BaseFigures": {
        "revisions": 31,
        "published": 1040504832,
        "full_checkpoints": 497875931136,
        "newest": "llama/support@3",
        "last_published_at": _AT,
    },
    "JobCounts": _COUNTS,
    "JobSummary": _JOB,
    "Replica": _REPLICA,
    "ReplicaFigures": _FIGURES,
    "StoredWeek": _WEEK,
    "Health": {
        "version": "0.3.0",
        "migration": "0015",
        "newest_migration": "0015",
        "replicas": [_REPLICA],
        "jobs": _COUNTS,
        "notices": _COUNTS,
        "bytes": 98765432100,
        "growth": [_WEEK],
        "last_gc": _GC,
        "last_fsck": None,
    },
}
