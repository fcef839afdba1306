"""Rows of a slot whose rows lie in several places of the files, or in another order: gathered, and scattered again.

See `registry.tensors.table.held.Run`. Rows change places within a group only, so any range of rows is read with at most
a group more on each side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from registry.tensors.table.held import Run

RunRows = Callable[[Run, int, int], torch.Tensor]
"""Stored rows start to stop of a run, counted from its first."""


def gathered(runs: Sequence[Run], read: RunRows, start: int, stop: int) -> torch.Tensor:
    """Rows ``start`` to ``stop`` of a slot, in its order."""
    parts, at = [], 0
    for run in runs:
        first, last = max(start, at) - at, min(stop, at + run.rows) - at
        if first < last:
            parts.append(_reordered(run, read, first, last))
        at += run.rows
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _reordered(run: Run, read: RunRows, first: int, last: int) -> torch.Tensor:
    if run.in_order:
        return read(run, first, last)
    around, beyond = whole_groups(run, first, last)
    return read(run, around, beyond)[[run.stored(row) - around for row in range(first, last)]]


def whole_groups(run: Run, first: int, last: int) -> tuple[int, int]:
    """The rows of all groups that rows ``first`` to ``last`` of a run have a part in."""
    return first // run.group * run.group, -(-last // run.group) * run.group


@dataclass(frozen=True)
class Place:
    """One run of a slot, and which of the slot's rows is its first."""

    run: Run
    at: int

    def scattered(self, rows: Callable[[int, int], torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of the run as they are stored, of a slot whose rows are read in its order."""
        around, beyond = whole_groups(self.run, start, stop)
        found = rows(self.at + around, self.at + beyond)
        if self.run.in_order:
            return found
        return found[[self.run.meant(row) - around for row in range(start, stop)]]


def places_of(runs: Sequence[Run]) -> list[Place]:
    """The runs of a slot."""
    found, at = [], 0
    for run in runs:
        found.append(Place(run, at))
        at += run.rows
    return found
