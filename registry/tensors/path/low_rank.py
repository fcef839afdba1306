"""Changes of low rank as factors that are never multiplied out: of one matrix, and of a slot with what it starts from.

The pairs that links add to one matrix stand side by side: their sum as two factors. A slot after its path is ``scale *
W + B A`` over the base's W, where some stored rows are set. Products add up to one of the sum of their ranks. A
rescaling (DoRA) multiplies oriented rows, so it goes into the scale and into the B of all products before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch

from registry.tensors.arithmetic.kernel import sum_dtype
from registry.tensors.checkpoint.factors import FactorMatrix
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import Add, BoundPair, Rescale, SetRows, Step

RowRange = tuple[int, int]
_Key = tuple[int, FactorMatrix]  # a link and its A: pieces that share both belong to one pair


@dataclass(frozen=True)
class PairPart:
    """One pair: a link's A, and its B over the output features of each piece that it changes."""

    pair: BoundPair  # any of the pieces': A and the scale are the same
    pieces: tuple[tuple[RowRange, BoundPair], ...]  # (output features, pair)


@dataclass(frozen=True)
class StackedPairs:
    """Pairs of one matrix (out_features, in_features), root first: B A is the sum of what they add."""

    parts: tuple[PairPart, ...]
    out_features: int
    in_features: int

    @property
    def rank(self) -> int:
        """Rows of A: the sum of the pairs' ranks."""
        return sum(part.pair.rank for part in self.parts)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of sums: float64 where a factor is float64."""
        return sum_dtype(*(matrix.dtype for part in self.parts for matrix in (part.pair.a, part.pair.b)))

    def a(self, dtype: torch.dtype) -> torch.Tensor:
        """A, shape (rank, in_features)."""
        parts = [part.pair.a_rows(0, part.pair.rank, dtype) for part in self.parts]
        return torch.cat([torch.zeros(0, self.in_features, dtype=dtype), *parts])

    def b_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows of B with the scales folded in, shape (stop - start, rank)."""
        columns = [torch.zeros(stop - start, 0, dtype=dtype)]
        for part in self.parts:
            rows = torch.zeros(stop - start, part.pair.rank, dtype=dtype)
            for (out_first, out_last), pair in part.pieces:
                first, last = max(start, out_first), min(stop, out_last)
                if first < last:
                    values = pair.b_rows(first - out_first, last - out_first, dtype)
                    rows[first - start : last - start] = values
            columns.append(rows)
        return torch.cat(columns, dim=1)


def stacked(pieces: Iterable[tuple[RowRange, Iterable[Step]]], out_features: int, in_features: int) -> StackedPairs:
    """The pairs among the steps of a matrix's pieces, which are given with their output features."""
    found: dict[_Key, dict[RowRange, BoundPair]] = {}
    for out, steps in pieces:
        for step in steps:
            if isinstance(step, Add):
                found.setdefault((step.link, step.pair.a), {})[out] = step.pair
    ordered = sorted(found.items(), key=lambda item: item[0][0])
    parts = (PairPart(next(iter(pairs.values())), tuple(pairs.items())) for _, pairs in ordered)
    return StackedPairs(tuple(parts), out_features, in_features)


@dataclass(frozen=True)
class LowRank:
    """``scale * W + B A`` in oriented space (out x in), in the precision of sums; then stored rows are set."""

    scale: torch.Tensor | None  # (out_features,); None: 1
    a: torch.Tensor  # (rank, in_features)
    b: torch.Tensor  # (out_features, rank)
    rows: tuple[int, ...]  # numbers of the stored rows that are set
    values: torch.Tensor  # what they are set to, shape (len(rows), columns)


def low_rank(values: SlotValues) -> LowRank:
    """The values of a slot whose steps replace no more than rows.

    Raises:
        InvalidAdapterError: ``zero_norm``: DoRA divides by a norm that is zero.
    """
    if values.replaces or values.rescales_inputs:
        raise ValueError(f"{values.slot.tensor} is replaced or rescaled by column, which is no change of low rank")
    slot, dtype = values.slot, values.dtype
    stages = list(values.stages())
    rescaled = any(isinstance(stage, Rescale) for stage in stages)
    factors = iter(values.rescalings()[0] if rescaled else ())
    scale: torch.Tensor | None = None
    a, b = [torch.zeros(0, slot.in_features, dtype=dtype)], [torch.zeros(slot.out_features, 0, dtype=dtype)]
    for stage in stages:
        if isinstance(stage, Rescale):
            factor = next(factors)
            scale = factor if scale is None else scale * factor
            b = [part * factor.unsqueeze(1) for part in b]
        elif not isinstance(stage, SetRows):
            left, right = stage
            a.append(left.T if slot.transposed else right)
            b.append(right.T if slot.transposed else left)
    rows = tuple(sorted(values.sets_rows()))
    return LowRank(scale, torch.cat(a), torch.cat(b, dim=1), rows, _set_values(values, rows))


def _set_values(values: SlotValues, rows: tuple[int, ...]) -> torch.Tensor:
    """What the rows are in the end: the steps after the one that sets them go over them, too."""
    found = torch.empty(len(rows), values.slot.columns, dtype=values.dtype)
    step = values.rows_a_block
    for index in sorted({row // step for row in rows}):
        block = values.block(index)
        for at, row in enumerate(rows):
            if row // step == index:
                found[at] = block[row % step]
    return found
