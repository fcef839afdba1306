"""What a full model changed of one slot: its stored rows less those of its parent, block by block.

The parent's values are exact (float64, not rounded), whatever dtype somebody merged them in. What equals bit for bit
one of the usual renderings of the parent in the full model's dtype was not changed: training began from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import torch

from registry.errors import InvalidAdapterError
from registry.tensors.arithmetic.kernel import rounded
from registry.tensors.comparison.roundings import rounded_block
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import SlotValues

HELD: Final = 1 << 26
"""Elements of a delta that is held in memory, in float32; of larger ones each pass makes the blocks again."""


@dataclass(frozen=True)
class Delta:
    """The change of one slot, seen as it is stored: (rows, columns)."""

    program: Program  # what the parent does to the slot
    base: BaseTensors
    full: BaseTensors  # of the full model, by the names of the base's files

    @property
    def rows(self) -> int:
        """Stored rows."""
        return self.program.slot.rows

    @property
    def columns(self) -> int:
        """Stored columns."""
        return self.program.slot.columns

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return self.rows * self.columns

    @cached_property
    def _parent(self) -> SlotValues:
        return self.base.values(self.program, torch.float64)

    @cached_property
    def _traced(self) -> SlotValues:
        return self.base.values(self.program, torch.float64, merge_products=False)

    def found(self, index: int) -> torch.Tensor:
        """Rows of block ``index`` of the full model, as stored."""
        step = self._parent.rows_a_block
        return self.full.rows(self.program.slot)(index * step, min((index + 1) * step, self.rows))

    def is_changed(self) -> bool:
        """Whether any block is none of the usual renderings of the parent's in the full model's dtype."""
        return self.elements > 0 and any(self._differs(index) for index in range(self._parent.blocks))

    def _differs(self, index: int) -> bool:
        found = self.found(index)
        if not self.program.steps:
            stored = self._parent.origin_block(index)
            if stored.dtype is found.dtype:
                return not torch.equal(stored, found)
        made = rounded(self.base.values(self.program, found.dtype).block(index), found.dtype)
        if made is not None and torch.equal(made, found):
            return False
        as_found = found.to(torch.float64)
        renderings = rounded_block(self._traced, index, {found.dtype}).renderings(found.dtype)
        return not any(torch.equal(rendering, as_found) for rendering in renderings)

    def blocks(self) -> Iterator[torch.Tensor]:
        """The blocks in order, in float64, each with all columns.

        Raises:
            InvalidAdapterError: ``non_finite``.
        """
        for index in range(self._parent.blocks):
            found = self._finite(self.found(index).to(torch.float64))
            yield found.sub_(self._parent.block(index))

    def kept(self) -> torch.Tensor:
        """All rows of the full model, as stored.

        Raises:
            InvalidAdapterError: ``non_finite``.
        """
        slot = self.program.slot
        return self._finite(self.full.rows(slot)(0, slot.rows))

    def _finite(self, found: torch.Tensor) -> torch.Tensor:
        if not math.isfinite(found.sum().item()) and not bool(found.isfinite().all()):
            raise InvalidAdapterError(
                f"Tensor {self.program.slot.tensor!r} of the full model holds NaN or infinity. Publish a "
                "checkpoint from before that.",
                code="non_finite",
            )
        return found


class Blocks(Protocol):
    """A matrix whose blocks of rows are made on demand."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> int: ...

    @property
    def elements(self) -> int: ...

    def blocks(self) -> Iterator[torch.Tensor]:
        """The blocks in order, in float64, each with all columns; whoever takes one may change it."""


class HeldDelta:
    """A delta in float32, as fast passes over it need it, and exactly for what has to be right."""

    def __init__(self, delta: Blocks) -> None:
        self._delta = delta
        self.rows, self.columns = delta.rows, delta.columns
        self._held: list[torch.Tensor] | None = [] if delta.elements <= HELD else None
        self._exact = True  # whether float32 holds every stored element exactly
        energy = []
        for block in delta.blocks():
            energy.append(_square(block))
            if self._held is not None:
                short = block.to(torch.float32)
                self._exact = self._exact and torch.equal(short.to(torch.float64), block)
                self._held.append(short)
        self.energy = math.fsum(energy)

    def exact(self) -> Iterator[torch.Tensor]:
        """The blocks in float64; whoever takes one may change it."""
        if self._held is not None and self._exact:
            yield from (block.to(torch.float64) for block in self._held)
        else:
            yield from self._delta.blocks()

    def _short(self) -> Iterator[torch.Tensor]:
        if self._held is not None:
            yield from self._held
        else:
            yield from (block.to(torch.float32) for block in self._delta.blocks())

    def times(self, directions: torch.Tensor) -> torch.Tensor:
        """X D^T for X (k, columns) in float32, shape (k, rows)."""
        out, at = torch.empty(directions.shape[0], self.rows), 0
        for block in self._short():
            torch.mm(directions, block.T, out=out[:, at : at + block.shape[0]])
            at += block.shape[0]
        return out

    def turned_times(self, directions: torch.Tensor) -> torch.Tensor:
        """X D for X (k, rows) in float32, shape (k, columns)."""
        sums, at = torch.zeros(directions.shape[0], self.columns), 0
        for block in self._short():
            sums.addmm_(directions[:, at : at + block.shape[0]], block)
            at += block.shape[0]
        return sums

    def distance(self, left: torch.Tensor, right: torch.Tensor) -> float:
        """|D - L R|_F^2 for L (rows, k) and R (k, columns), every element in float64."""
        squares, at = [], 0
        left, right = left.to(torch.float64), right.to(torch.float64)
        for block in self.exact():
            block.addmm_(left[at : at + block.shape[0]], right, alpha=-1)
            squares.append(_square(block))
            at += block.shape[0]
        return math.fsum(squares)


def _square(block: torch.Tensor) -> float:
    """|block|_F^2, of values in one piece."""
    flat = block.reshape(-1)
    return torch.dot(flat, flat).item()


def stacked(blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Blocks of rows as one matrix."""
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks))
