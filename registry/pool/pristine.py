"""The base's rows under a running model: kept in memory as far as the budget goes, else read from the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from registry.pool.layout import Place
from registry.tensors.arithmetic.rounding import round_into
from registry.tensors.factors.slots import Slot
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.slot_values import MatrixRows


@dataclass(frozen=True)
class PristineTensors(BaseTensors):
    """The base's tensors, of which some slots are kept on the CPU, in the dtype of the files.

    What is kept stays: paths are switched over all their modules in turn, so dropping the least recent would only make
    the next one read again.

    Args:
        memory: bytes that may be kept.
    """

    memory: int = 0
    kept: dict[Slot, torch.Tensor] = field(default_factory=dict)

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept."""
        return sum(rows.nbytes for rows in list(self.kept.values()))

    def rows(self, slot: Slot) -> MatrixRows:
        rows = self.kept.get(slot)
        if rows is None:
            return super().rows(slot)
        held = rows
        return lambda start, stop: held[start:stop]

    def keep(self, slot: Slot, read: Callable[[], torch.Tensor]) -> None:
        """Keep a slot, if it fits; ``read`` gives its rows, a tensor that nobody else changes."""
        size = slot.rows * slot.columns * self.dtype(slot).itemsize
        if slot not in self.kept and self.kept_bytes + size <= self.memory:
            self.kept[slot] = read()


def plain_rows(base: BaseTensors, place: Place, dtype: torch.dtype) -> MatrixRows:
    """The base's rows of a place of the running model, in the dtype that they have there."""
    if place.origin is None:
        raise AssertionError("what the base lacks is restored from its own copy")
    read = base.rows(place.origin)

    def cast(start: int, stop: int) -> torch.Tensor:
        stored = read(start, stop)
        if stored.dtype == dtype:
            return stored
        made = torch.empty(stored.shape, dtype=dtype)
        round_into(made, stored)
        return made

    return cast
