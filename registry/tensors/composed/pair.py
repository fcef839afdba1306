"""The one pair that stands for all links on a module: a LoRA, a DoRA where a link rescales, or a pair of experts.

In oriented space a path of LoRA and DoRA links is one map ``W -> diag(c) (W + B A)``. Link i appends ``A_i`` to A and
``diag(1 / c) s_i B_i`` to B, with c as it is before that link; a DoRA link also multiplies c by ``m / |P|``, P being
the weight with its delta (rows normed). So ``A = [A_1; A_2; ...]`` (R, in) stays what was published, the scales go into
B (out, R), and the magnitude of the composed DoRA is ``c |W + B A|``, which is that of the path's own weight. Where the
ranks together pass the matrix, one factor is the identity and the other the delta itself: exact, and no SVD whose bits
would depend on the machine.

The one pair of a fused parameter has all links on all of its experts, in the form in which PEFT keeps them. A is
(experts * R, in_features), expert-major, and B (out_features, R * experts), rank-major with the expert fastest (PEFT's
``ParamWrapper.get_delta_weight``). Links side by side are made expert by expert: A and B of the whole parameter side by
side would mix the experts up. Pairs of single pieces (transformers 4 stored gate and up separately) go in
block-diagonally; experts with a smaller rank are filled with zeros.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from registry.errors import InvalidAdapterError
from registry.tensors.arithmetic.kernel import add_product, block_rows, pad_rows, sum_dtype
from registry.tensors.composed.spelling import LEAD, AdapterTensor, Rows
from registry.tensors.path.low_rank import RowRange, StackedPairs, stacked
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import Program
from registry.tensors.path.steps import Add, BoundPair, Rescale, Step
from registry.tensors.table.parameters import FusedParameter
from registry.tensors.table.slots import Slot, slot_of_piece
from registry.tensors.table.targets import Target, TargetKind


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
        found: list[list[tuple[RowRange, tuple[Step, ...]]]] = [[] for _ in range(self.fused.experts)]
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


@dataclass(frozen=True)
class NormalForm:
    """c before each pair, and the magnitude of the composed DoRA; shapes (out_features,)."""

    before: tuple[torch.Tensor | None, ...]  # None: all ones
    magnitude: torch.Tensor


@dataclass(frozen=True)
class ComposedPair:
    """All links on one module from link number ``since`` on."""

    name: str  # module, as the adapter's tensors spell it
    target: Target
    program: Program
    since: int
    base: BaseTensors
    dora: bool
    factor: float = 1.0  # B is multiplied by it
    at_least: int = 0  # filled with zeros up to this rank
    sums: torch.dtype = torch.float32  # least precision of sums and products
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)
    _made: list[NormalForm] = field(default_factory=list, compare=False, repr=False)

    @cached_property
    def pairs(self) -> tuple[BoundPair, ...]:
        """The links' pairs, root first."""
        return tuple(step.pair for step in self.program.since(self.since) if isinstance(step, Add))

    @property
    def in_features(self) -> int:
        """Columns of A."""
        return self.program.slot.in_features

    @property
    def out_features(self) -> int:
        """Rows of B."""
        return self.program.slot.out_features

    @property
    def links_rank(self) -> int:
        """Sum of the links' ranks."""
        return sum(pair.rank for pair in self.pairs)

    @property
    def dense(self) -> bool:
        """Whether the links' ranks together pass the matrix, so that the delta itself is smaller."""
        return self.links_rank > min(self.in_features, self.out_features)

    @property
    def own_rank(self) -> int:
        """Rank of the composed pair before it is filled up."""
        return min(self.in_features, self.out_features) if self.dense else self.links_rank

    @property
    def rank(self) -> int:
        """Rank that the pair is written with."""
        return max(self.own_rank, self.at_least)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of sums: float64 where a factor is float64."""
        return sum_dtype(self.sums, *(matrix.dtype for pair in self.pairs for matrix in (pair.a, pair.b)))

    def tensors(self) -> list[AdapterTensor]:
        """A, B and, for a DoRA, the magnitude."""
        return pair_tensors(self.name, self.target, self.rank, *self._rows(), self._magnitude if self.dora else None)

    def _rows(self) -> tuple[Rows, Rows]:
        if not self.dense:
            rows_a, rows_b = self.a_rows, self.b_rows
        elif self.in_features <= self.out_features:
            rows_a, rows_b = self._identity, self._delta
        else:
            rows_a, rows_b = self._delta, self._identity
        return rows_filled(rows_a, self.own_rank, self.in_features), columns_filled(rows_b, self.rank)

    def _identity(self, start: int, stop: int) -> torch.Tensor:
        return torch.eye(self.own_rank, dtype=self.dtype)[start:stop]

    def a_rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows of A of the links side by side, shape (stop - start, in_features)."""
        parts, at = [], 0
        for pair in self.pairs:
            first, last = max(start, at), min(stop, at + pair.rank)
            if first < last:
                parts.append(pair.a_rows(first - at, last - at, self.dtype))
            at += pair.rank
        return torch.cat(parts)

    def b_rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows of B of the links side by side, scales and 1 / c folded in, shape (stop - start, sum of ranks)."""
        before = self.normal_form.before if self.dora else (None,) * len(self.pairs)
        parts = []
        for pair, scale in zip(self.pairs, before, strict=True):
            read = pair.b.read(pair.source, start, stop).to(torch.float64)  # of a float64 file no copy: never in place
            rows = read * (pair.scale * self.factor)
            parts.append((rows if scale is None else rows / scale[start:stop].unsqueeze(1)).to(self.dtype))
        return torch.cat(parts, dim=1)

    def _delta(self, start: int, stop: int) -> torch.Tensor:
        """Rows of B A, always computed in whole blocks of the grid."""
        right = self.a_rows(0, self.links_rank)
        step = block_rows(self.out_features, self.in_features)
        if start % step:
            raise AssertionError("deltas are read on the grid of their blocks")
        left = pad_rows(self.b_rows(start, stop), step)
        sums = torch.zeros(left.shape[0], right.shape[1], dtype=self.dtype)
        for first in range(0, left.shape[0], step):
            add_product(sums[first : first + step], left[first : first + step], right)
        return sums[: stop - start]

    def _magnitude(self, start: int, stop: int) -> torch.Tensor:
        return self.normal_form.magnitude[start:stop].unsqueeze(1)

    @property
    def normal_form(self) -> NormalForm:
        """c and the magnitude; reads the base's weight."""
        with self._lock:
            if not self._made:
                self._made.append(self._normal_form())
            return self._made[0]

    def _normal_form(self) -> NormalForm:
        steps = self.program.since(self.since)
        last = steps[-1]
        before, c, norms = self.scales()  # also sees to it that every feature has a norm to divide by
        if isinstance(last, Rescale) and sum(isinstance(step, Rescale) for step in steps) == 1:
            return NormalForm(before, last.read(torch.float64))
        magnitude = last.read(torch.float64).abs() if isinstance(last, Rescale) else norms
        return NormalForm(before, magnitude if c is None else magnitude * c.sign())

    def scales(self) -> tuple[tuple[torch.Tensor | None, ...], torch.Tensor | None, torch.Tensor]:
        """c before each pair, c after all of them (None: all ones), and the norms of the path's own weight."""
        steps = self.program.since(self.since)
        factors, norms = self.base.values(self.program, self.dtype).rescalings()
        mine = iter(factors[len(factors) - sum(isinstance(step, Rescale) for step in steps) :])
        c: torch.Tensor | None = None
        before: list[torch.Tensor | None] = []
        for step in steps:
            if isinstance(step, Rescale):
                factor = next(mine).to(torch.float64)
                c = factor if c is None else c * factor
            elif isinstance(step, Add):
                before.append(self._invertible(c))
        return tuple(before), c, norms

    def _invertible(self, c: torch.Tensor | None) -> torch.Tensor | None:
        if c is not None and bool((c == 0).any()):
            raise InvalidAdapterError(
                f"The path sets output feature {int((c == 0).nonzero()[0, 0])} of {self.target.module!r} to zero "
                "(a DoRA magnitude of 0) and adapts it again: no single adapter on the base equals that. "
                "Fetch it --as merged.",
                code="not_composable",
            )
        return c


def pair_tensors(
    name: str, target: Target, rank: int, rows_a: Rows, rows_b: Rows, magnitude: Rows | None
) -> list[AdapterTensor]:
    """A, B and the magnitude of one module with the names and shapes that PEFT gives them.

    Args:
        name: module, as the adapter's tensors spell it.
        target: what the module is.
        rank: of the pair.
        rows_a: rows of A (rank, in_features).
        rows_b: rows of B (out_features, rank).
        magnitude: rows of the magnitudes (out_features, 1); None for a LoRA.
    """
    tails = ("lora_A.weight", "lora_B.weight")
    ones: tuple[int, ...] = ()
    shape_a: tuple[int, ...] = (rank, target.in_features)
    if target.kind is TargetKind.EMBEDDING:
        tails = ("lora_embedding_A", "lora_embedding_B")
    elif target.kind is TargetKind.CONV:
        ones = (1,) * (len(target.shape) - 2)
        shape_a = (rank, *target.shape[1:])
    lead = f"{LEAD}{name}."
    found = [
        AdapterTensor(lead + tails[0], shape_a, rows_a),
        AdapterTensor(lead + tails[1], (target.out_features, rank, *ones), rows_b),
    ]
    if magnitude is not None:
        shape_m: tuple[int, ...] = (1, target.out_features, *ones) if ones else (target.out_features,)
        # PEFT writes no ".weight" here and reads it with and without; transformers 5 loses a magnitude that lacks it.
        found.append(AdapterTensor(lead + "lora_magnitude_vector.weight", shape_m, _reshaped(magnitude, shape_m)))
    return found


def _reshaped(magnitude: Rows, shape: tuple[int, ...]) -> Rows:
    """Magnitudes as rows of their tensor: a convolution keeps them all in one row."""
    if len(shape) == 1:
        return magnitude
    return lambda start, stop: magnitude(0, shape[1]).T[start:stop]


def rows_filled(rows: Rows, rank: int, columns: int) -> Rows:
    """Rows of A (rank, columns) with zeros after the last."""

    def filled(start: int, stop: int) -> torch.Tensor:
        if stop <= rank:
            return rows(start, stop)
        known = rows(start, rank) if start < rank else torch.empty(0, columns)
        return torch.nn.functional.pad(known, (0, 0, 0, stop - start - known.shape[0]))

    return filled


def columns_filled(rows: Rows, rank: int) -> Rows:
    """Rows of B with zeros up to ``rank`` columns."""

    def filled(start: int, stop: int) -> torch.Tensor:
        known = rows(start, stop)
        return torch.nn.functional.pad(known, (0, rank - known.shape[1])) if known.shape[1] < rank else known

    return filled
