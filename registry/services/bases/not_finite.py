"""Weights of a base model that hold NaN or infinity: reported when it is added, and no adapter may change their rows.

Such rows are often those of tokens that were never used. A merge takes a weight block by block and rounds it, and
values that are not finite can't be rounded: a revision that changes such a row could be published, but never be fetched
as merged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown
from registry.tensors.lineage.inputs import replaced_tensors
from registry.tensors.lineage.paths import Blobs, LoadedPath, read_document
from registry.tensors.path.programs import PathPrograms
from registry.tensors.table.slots import Slot

Rows = Mapping[str, Sequence[int]]
"""The rows of tensors, counted in their first dimension."""


def check_changed_rows(blobs: Blobs, parent: LoadedPath, programs: PathPrograms) -> None:
    """Refuse a path whose last link changes rows of the base model that are not finite, and that nothing replaces.

    Args:
        blobs: where the base model is.
        parent: of the last link.
        programs: of the path with that link.

    Raises:
        InvalidAdapterError: ``non_finite``, naming the tensor and the row.
    """
    index = parent.base.index
    document = _kept(_Index(index.digest, lambda: _part_of(read_document(blobs, index))))
    if not document["rows"]:
        return
    replaced = replaced_tensors(blobs, parent)
    for slot, program in programs.programs.items():
        if program.origin is None or program.replaces or not program.since(len(parent.live)):
            continue
        for tensor, row in _bad_rows(program.origin, document):
            if tensor not in replaced:
                raise InvalidAdapterError(
                    f"The adapter changes {shown(slot.tensor)}, and {shown(tensor)} of the base model "
                    f"{parent.base.name} contains NaN or infinity there, in row {row}: nothing can be merged into it. "
                    "Train without that module, or add a base model whose weights are finite and publish under that.",
                    code="non_finite",
                )


def _bad_rows(origin: Slot, document: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The first such row of each place of a slot."""
    found = []
    for run in origin.places:
        first, stop = run.first * origin.columns, (run.first + run.rows) * origin.columns
        width = document["widths"].get(run.tensor, 0)
        rows = (row for row in document["rows"].get(run.tensor, ()) if first < (row + 1) * width and row * width < stop)
        found += [(run.tensor, row) for row in rows][:1]
    return found


def _part_of(index: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of an index that is cached in memory: the rows, and how many elements a row of their tensors has."""
    rows: Rows = index.get("not_finite", {})
    return {"rows": rows, "widths": {name: math.prod(index["tensors"][name]["shape"][1:]) for name in rows}}


@dataclass(frozen=True)
class _Index:
    """A cache key: the digest of an index, and how to read it."""

    digest: str
    read: Callable[[], Mapping[str, Any]] = field(compare=False)


@lru_cache(maxsize=32)
def _kept(index: _Index) -> Mapping[str, Any]:
    return index.read()
