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
from registry.tensors.factors.slots import Slot, slot_of_piece
from registry.tensors.path.programs import Program
from registry.tensors.path.stacked_pairs import Rows, StackedPairs, stacked
from registry.tensors.path.steps import Step
from registry.tensors.table.held import FusedParameter


@dataclass(frozen=True)
class ComposedExperts:
    """All links on one fused parameter from link number ``since`` on."""

    name: str  # the module that holds it, with a ``.base_layer`` for each wrapper outside of this one
    parameter: str  # full path of the parameter
    fused: FusedParameter
    programs: Mapping[Slot, Program]
    since: int
    at_least: int = 0  # filled with zeros up to this rank
    sums: torch.dtype = torch.float32  # least precision of products

    @cached_property
    def pairs(self) -> tuple[StackedPairs, ...]:
        """The pairs of each expert."""
        found: list[list[tuple[Rows, tuple[Step, ...]]]] = [[] for _ in range(self.fused.experts)]
        for piece in self.fused.pieces:
            program = self.programs.get(slot_of_piece(piece, self.fused))
            found[piece.expert].append((piece.out, program.since(self.since) if program else ()))
        return tuple(stacked(pieces, self.fused.out_features, self.fused.in_features) for pieces in found)

    @property
    def rank(self) -> int:
        """Rank that each expert is written with: the largest sum of ranks."""
        return max(self.at_least, *(pairs.rank for pairs in self.pairs))

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of sums: float64 where a factor is float64."""
        return sum_dtype(self.sums, *(pairs.dtype for pairs in self.pairs))

    def tensors(self) -> list[AdapterTensor]:
        """A and B."""
        return expert_tensors(self.name, self.fused, self.rank, self.a, self.b_rows)

    def a(self, expert: int) -> torch.Tensor:
        """A of one expert, its links side by side, shape (sum of ranks, in_features)."""
        return self.pairs[expert].a(self.dtype)

    def b_rows(self, expert: int, start: int, stop: int) -> torch.Tensor:
        """Rows of B of one expert with the scales folded in, shape (stop - start, sum of ranks)."""
        return self.pairs[expert].b_rows(start, stop, self.dtype)


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
