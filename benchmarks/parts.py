"""The parts of the table, in its order."""

from __future__ import annotations

from typing import Final

PARTS: Final = {
    "startup": "the first second of a command",
    "truncate": "lower ranks of a composed block, beside PEFT",
    "merge": "merging a path to disk, beside copying and beside PEFT; publishing a large adapter",
    "service": "a team's registry: publishes, lookups and transfers, beside MLflow and boto3",
    "hub": "merged models that are computed while they are read, beside stored copies",
}
"""Name of the module, and what it measures."""
