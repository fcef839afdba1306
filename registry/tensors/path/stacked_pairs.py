"""The pairs that links add to one matrix, side by side: their sum as two factors, never multiplied out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch

from registry.tensors.arithmetic.rounding import sum_dtype
from registry.tensors.factors.matrices import FactorMatrix
from registry.tensors.path.steps import Add, BoundPair, Step

Rows = tuple[int, int]
_Key = tuple[int, FactorMatrix]  # a link and its A: pieces that share both belong to one pair


@dataclass(frozen=True)
class PairPart:
    """One pair: a link's A, and its B over the output features of each piece that it changes."""

    pair: BoundPair  # any of the pieces': A and the scale are the same
    pieces: tuple[tuple[Rows, BoundPair], ...]  # (output features, pair)


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


def stacked(pieces: Iterable[tuple[Rows, Iterable[Step]]], out_features: int, in_features: int) -> StackedPairs:
    """The pairs among the steps of a matrix's pieces, which are given with their output features."""
    found: dict[_Key, dict[Rows, BoundPair]] = {}
    for out, steps in pieces:
        for step in steps:
            if isinstance(step, Add):
                found.setdefault((step.link, step.pair.a), {})[out] = step.pair
    ordered = sorted(found.items(), key=lambda item: item[0][0])
    parts = (PairPart(next(iter(pairs.values())), tuple(pairs.items())) for _, pairs in ordered)
    return StackedPairs(tuple(parts), out_features, in_features)
