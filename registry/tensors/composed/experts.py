"""The one pair of a fused parameter: all links on all of its experts, in the form that PEFT keeps them.

A is (experts * R, in_features), expert-major, and B (out_features, R * experts), rank-major with the expert fastest
(PEFT's ``ParamWrapper.get_delta_weight``). Links side by side are made expert by expert: A and B of the whole
parameter side by side would mix the experts up. Pairs of single pieces (transformers 4 kept gate and up apart) go in
block-diagonally; experts with a smaller rank are filled with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from registry.tensors.arithmetic.rounding import sum_dtype
from registry.tensors.composed.adapter_tensors import LEAD, AdapterTensor
from registry.tensors.factors.matrices import FactorMatrix
from registry.tensors.factors.slots import Slot, slot_of_piece
from registry.tensors.path.programs import Program
from registry.tensors.path.steps import Add, BoundPair
from registry.tensors.table.held import FusedParameter

_Key = tuple[int, FactorMatrix]  # a link and its A: pieces that share both belong to one pair


@dataclass(frozen=True)
class _Part:
    """One pair of one expert: a link's A, and its B over the output features of each piece that it changes."""

    pair: BoundPair  # any of the pieces': A and the scale are the same
    pieces: tuple[tuple[tuple[int, int], BoundPair], ...]  # (output features, pair)


@dataclass(frozen=True)
class ComposedExperts:
    """All links on one fused parameter from link number ``since`` on."""

    name: str  # the module that holds it, with a ``.base_layer`` for each wrapper outside of this one
    parameter: str  # full path of the parameter
    fused: FusedParameter
    programs: Mapping[Slot, Program]
    since: int
    at_least: int = 0  # filled with zeros up to this rank

    @cached_property
    def parts(self) -> tuple[tuple[_Part, ...], ...]:
        """The pairs of each expert, root first."""
        found: list[dict[_Key, dict[tuple[int, int], BoundPair]]] = [{} for _ in range(self.fused.experts)]
        for piece in self.fused.pieces:
            program = self.programs.get(slot_of_piece(piece, self.fused))
            for step in program.since(self.since) if program else ():
                if isinstance(step, Add):
                    key = (step.link, step.pair.a)
                    found[piece.expert].setdefault(key, {})[piece.out] = step.pair
        ordered = []
        for by_key in found:
            keys = sorted(by_key, key=lambda key: key[0])
            ordered.append(tuple(_Part(next(iter(by_key[key].values())), tuple(by_key[key].items())) for key in keys))
        return tuple(ordered)

    @property
    def rank(self) -> int:
        """Rank that each expert is written with: the largest sum of ranks."""
        return max(self.at_least, *(sum(part.pair.rank for part in parts) for parts in self.parts))

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of sums: float64 where a factor is float64."""
        return sum_dtype(
            *(matrix.dtype for parts in self.parts for part in parts for matrix in (part.pair.a, part.pair.b))
        )

    def tensors(self) -> list[AdapterTensor]:
        """A and B."""
        return expert_tensors(self.name, self.fused, self.rank, self.a, self.b_rows)

    def a(self, expert: int) -> torch.Tensor:
        """A of one expert, its links side by side, shape (sum of ranks, in_features)."""
        parts = [part.pair.a_rows(0, part.pair.rank, self.dtype) for part in self.parts[expert]]
        return torch.cat([torch.zeros(0, self.fused.in_features, dtype=self.dtype), *parts])

    def b_rows(self, expert: int, start: int, stop: int) -> torch.Tensor:
        """Rows of B of one expert with the scales folded in, shape (stop - start, sum of ranks)."""
        columns = [torch.zeros(stop - start, 0, dtype=self.dtype)]
        for part in self.parts[expert]:
            rows = torch.zeros(stop - start, part.pair.rank, dtype=self.dtype)
            for (out_first, out_last), pair in part.pieces:
                first, last = max(start, out_first), min(stop, out_last)
                if first < last:
                    values = pair.b_rows(first - out_first, last - out_first, self.dtype)
                    rows[first - start : last - start] = values
            columns.append(rows)
        return torch.cat(columns, dim=1)


def expert_tensors(
    name: str,
    fused: FusedParameter,
    rank: int,
    a: Callable[[int], torch.Tensor],
    b_rows: Callable[[int, int, int], torch.Tensor],
) -> list[AdapterTensor]:
    """A and B of all experts, from those of one expert, which are filled with zeros up to the rank.

    Args:
        name: of the wrapper, as the adapter's tensors spell it.
        fused: the parameter.
        rank: of every expert.
        a: expert -> A (at most rank, in_features).
        b_rows: expert, start, stop -> rows of B (stop - start, at most rank).
    """

    def rows_of_a(start: int, stop: int) -> torch.Tensor:
        first, last = start // rank, -(-stop // rank)
        filled = [_filled(a(expert), rank) for expert in range(first, last)]
        return torch.cat(filled)[start - first * rank : stop - first * rank]

    def rows_of_b(start: int, stop: int) -> torch.Tensor:
        filled = [_filled(b_rows(expert, start, stop).T, rank) for expert in range(fused.experts)]
        return torch.stack(filled).permute(2, 1, 0).flatten(1)

    lead = f"{LEAD}{name}."
    return [
        AdapterTensor(f"{lead}lora_A.weight", (fused.experts * rank, fused.in_features), rows_of_a),
        AdapterTensor(f"{lead}lora_B.weight", (fused.out_features, rank * fused.experts), rows_of_b),
    ]


def _filled(rows: torch.Tensor, count: int) -> torch.Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, count - rows.shape[0]))
