"""Truncated pairs of a composed adapter: the best pairs of a lower rank, certified, and the report of what is lost.

What is approximated is the delta as it is felt: diag(c) B A for a DoRA, so that the error is that of the merged weight.
The singular values are found while planning, one pass over the factors; the new factors are the old ones times small
matrices, and are made when they are read (`registry.tensors.truncation.truncate`).

The error of factors as they are written is that of their product, or for a DoRA that of ``diag(m / |V|) V`` with ``V =
W + B A``: the rounding of a magnitude scales a whole row of the weight, which is far larger than its delta. So a DoRA
is measured on the weights themselves.

The report is the document of ``--report`` and of the receipt. Every figure follows from the singular values of the
deltas, so it is the error of the best pairs of these ranks (Eckart and Young 1936), before the new factors are rounded
to the dtype that they are written in.

``rank``, ``max_error``
    The options of the request; null where none was given.
``modules``
    One entry for each module, by name:
    ``module``; ``rank_before`` and ``rank_after``; ``energy``, the squared Frobenius norm of the delta;
    ``discarded``, the energy left out, so that its root is ||D - D'||_F; ``relative_frobenius``,
    ||D - D'||_F / ||D||_F; ``relative_spectral``, ||D - D'||_2 / ||D||_2; ``scaled``, true if the path has a DoRA
    link on it: then D is diag(c) B A, whose error is that of the merged weight.
``total``
    The same over all deltas side by side, that is as the blocks of one block-diagonal matrix: energies add up, and the
    spectral norm is the largest of the modules'. ``parameters_before`` and ``parameters_after`` count factor elements.
    ``written``, for 16-bit factors, is the relative Frobenius error of the factors as they are written: it includes
    their rounding and what was left out, and ``max_error`` bounds both. For a DoRA it is ||W - W'||_F / ||D||_F of
    the merged weights, with the magnitude as it is written. In fp32 the rounding is less than 1e-6, or for a DoRA about
    1e-7 ||W||_F / ||D||_F.
``enough_for``
    By relative Frobenius error over all modules (``"0.01"``, ``"0.05"``, ``"0.1"``), the smallest ``--rank`` with which
    the error is no larger; left out where that is not known.

Of an adapter that holds DoRA as plain pairs (`registry.tensors.composed.flattened`) D is what the path changes of the
merged weight, ``rank_before`` is that of a matrix, and of a large one ``discarded`` is measured on all of its elements
and ``relative_spectral`` is an upper bound.

Zero deltas have no error: their relative errors are 0.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import torch

from registry.errors import InvalidAdapterError
from registry.files.source import NOWHERE
from registry.schemas import ModuleTruncation, Truncation, TruncationTotal
from registry.tensors.arithmetic.kernel import block_rows, rounded
from registry.tensors.artifacts.merged import overflow
from registry.tensors.checkpoint.factors import Held
from registry.tensors.composed.flattened import FlattenedPair
from registry.tensors.composed.pair import (
    ComposedExperts,
    ComposedPair,
    columns_filled,
    expert_tensors,
    pair_tensors,
    rows_filled,
)
from registry.tensors.composed.spelling import AdapterTensor
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import Add, BoundPair
from registry.tensors.table.targets import Target
from registry.tensors.truncation.rank_choice import ModuleSpectrum, enough_rank, relative_error
from registry.tensors.truncation.truncate import Decomposition, KeptDirections, distance, from_triangles, triangle

ASKED_ERRORS: Final = (0.01, 0.05, 0.1)


def report(
    modules: Sequence[ModuleSpectrum],
    ranks: Mapping[str, int],
    *,
    rank: int | None = None,
    max_error: float | None = None,
    scaled: frozenset[str] = frozenset(),
    written: float | None = None,
) -> Truncation:
    """Report what is lost when each module keeps the given rank.

    Args:
        modules: every module of the composed adapter.
        ranks: rank that each keeps, by name (`registry.tensors.truncation.rank_choice.choose_ranks`).
        rank, max_error: as requested.
        scaled: modules whose spectra are those of diag(c) B A.
        written: relative error of the factors as they are written, where it was measured.
    """
    entries = [_module(module, ranks[module.module], module.module in scaled) for module in modules]
    return Truncation(
        rank=rank,
        max_error=max_error,
        modules=tuple(sorted(entries, key=lambda entry: entry.module)),
        total=_total(modules, ranks, written),
        enough_for={f"{error:g}": rank for error in ASKED_ERRORS if (rank := enough_rank(modules, error)) is not None},
    )


def _module(module: ModuleSpectrum, kept: int, scaled: bool) -> ModuleTruncation:
    energy, discarded = module.tails[0], module.discarded(kept)
    return ModuleTruncation(
        module=module.module,
        rank_before=module.rank,
        rank_after=kept,
        energy=energy,
        discarded=discarded,
        relative_frobenius=math.sqrt(discarded / energy) if energy > 0 else 0.0,
        relative_spectral=_ratio(module.largest_left_out(kept), module.singular_value(0)),
        scaled=scaled,
    )


def _total(modules: Sequence[ModuleSpectrum], ranks: Mapping[str, int], written: float | None) -> TruncationTotal:
    first_left_out = max((module.largest_left_out(ranks[module.module]) for module in modules), default=0.0)
    return TruncationTotal(
        energy=math.fsum(module.tails[0] for module in modules),
        discarded=math.fsum(module.discarded(ranks[module.module]) for module in modules),
        relative_frobenius=relative_error(modules, ranks),
        relative_spectral=_ratio(first_left_out, max((module.singular_value(0) for module in modules), default=0.0)),
        parameters_before=sum(module.cost * module.rank for module in modules),
        parameters_after=sum(module.cost * ranks[module.module] for module in modules),
        written=written,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


T = TypeVar("T")


def spectrum(pair: ComposedPair) -> ModuleSpectrum:
    """Singular values of a pair's delta, as large as PEFT makes it."""
    values = tuple(value / pair.factor for value in _decompose(pair).singular_values)
    return ModuleSpectrum(pair.target.module, pair.own_rank, pair.in_features + pair.out_features, (values,))


def expert_spectrum(experts: ComposedExperts) -> ModuleSpectrum:
    """Singular values of the delta of each expert; all of them get one rank."""
    fused = experts.fused
    values = tuple(_decompose_expert(experts, number).singular_values for number in range(fused.experts))
    cost = (fused.in_features + fused.out_features) * fused.experts
    return ModuleSpectrum(experts.parameter, experts.rank, cost, values)


def _decompose(pair: ComposedPair) -> Decomposition:
    c = pair.scales()[1] if pair.dora else None
    step = block_rows(pair.out_features, pair.links_rank)

    def blocks(start: int) -> torch.Tensor:
        rows = pair.b_rows(start, min(start + step, pair.out_features)).to(torch.float64)
        return rows if c is None else rows * c[start : start + step].unsqueeze(1)

    b = triangle(blocks(start) for start in range(0, pair.out_features, step))
    a = triangle([pair.a_rows(0, pair.links_rank).T])
    return from_triangles(b, a, name=repr(pair.target.module))


def _decompose_expert(experts: ComposedExperts, expert: int) -> Decomposition:
    a, b = experts.a(expert), experts.b_rows(expert, 0, experts.fused.out_features)
    if not a.shape[0]:
        return Decomposition((), torch.zeros(0, 0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64))
    return from_triangles(triangle([b]), triangle([a.T]), name=repr(experts.parameter))


def written_error(part: TruncatedPair | TruncatedExperts | FlattenedPair, dtype: torch.dtype) -> float:
    """||D - D'||_F of a truncated pair that is rounded to ``dtype`` when it is written; for a DoRA of merged weights.

    Raises:
        InvalidAdapterError: ``overflow``, a factor is too large for ``dtype``; ``zero_norm``, PEFT would divide by 0.
    """
    if not isinstance(part, TruncatedExperts):
        return part.pair_error(dtype)
    return math.hypot(*(part.expert_error(number, dtype) for number in range(part.experts.fused.experts)))


def _as_written(values: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    made = rounded(values, dtype)
    if made is None:
        raise overflow(name, dtype, values)
    return made


class _Once(Generic[T]):
    """What is made once, when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[int, T] = {}

    def get(self, key: int, make: Callable[[], T]) -> T:
        """That of a pair, or of one expert."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]


@dataclass(frozen=True)
class TruncatedPair:
    """A composed pair cut to ``kept`` directions."""

    pair: ComposedPair
    kept: int
    at_least: int = 0
    _directions: _Once[KeptDirections] = field(default_factory=_Once, compare=False, repr=False)
    _magnitudes: _Once[torch.Tensor] = field(default_factory=_Once, compare=False, repr=False)

    @property
    def target(self) -> Target:
        """The module."""
        return self.pair.target

    @property
    def rank(self) -> int:
        """Rank that the pair is written with."""
        return max(self.kept, self.at_least)

    def tensors(self) -> list[AdapterTensor]:
        """A, B and, for a DoRA, the magnitude, made again for the weight as it is now."""
        pair = self.pair
        rows_a = rows_filled(self._a_rows, self.kept, pair.in_features)
        rows_b = columns_filled(self._b_rows, self.rank)
        magnitude = self._magnitude_rows if pair.dora else None
        return pair_tensors(pair.name, pair.target, self.rank, rows_a, rows_b, magnitude)

    def pair_error(self, dtype: torch.dtype) -> float:
        """See `written_error`."""
        pair = self.pair
        a, b = pair.a_rows(0, pair.links_rank), pair.b_rows(0, pair.out_features)
        kept = self._kept()
        new_a, new_b = (_as_written(one, dtype, pair.name) for one in (kept.a_rows(a), kept.b_rows(b)))
        if pair.dora:  # never one whose B has a factor: PEFT has no DoRA of an attention
            return self._merged_error(new_a, new_b, _as_written(self._magnitude(), dtype, pair.name))
        return distance(b, a, new_b, new_a)[0] / pair.factor

    def _merged_error(self, a: torch.Tensor, b: torch.Tensor, magnitude: torch.Tensor) -> float:
        """||W - W'||_F of the path's own weight and the one that PEFT makes of a DoRA."""
        pair = self.pair
        new, right = self._with_pair(a, b), pair.base.values(pair.program, torch.float64)
        _, norms = new.rescalings()
        if bool((norms == 0).any()):
            feature, name = int((norms == 0).nonzero()[0, 0]), str(b.dtype).removeprefix("torch.")
            raise InvalidAdapterError(
                f"Output feature {feature} of {pair.target.module!r} is zero once its factors are rounded to {name}, "
                "so that DoRA has no direction to scale there; fetch with --dtype fp32, or --as merged.",
                code="zero_norm",
            )
        factors = magnitude.to(torch.float64) / norms
        apart = []
        for index in range(right.blocks):
            values, first = new.block(index), index * new.rows_a_block
            values *= factors if new.slot.transposed else factors[first : first + values.shape[0]].unsqueeze(1)
            apart.append(torch.linalg.vector_norm(values.sub_(right.block(index))).item())
        return math.hypot(*apart)

    def _with_pair(self, a: torch.Tensor, b: torch.Tensor) -> SlotValues:
        """The weight that the adapter goes on plus the product of a pair, not rescaled."""
        pair = self.pair
        new = BoundPair(Held(a), Held(b), 1.0, NOWHERE)
        steps = (*pair.program.steps[: -len(pair.program.since(pair.since))], Add(pair.since, new))
        return pair.base.values(Program(pair.program.slot, steps, pair.program.origin), torch.float64)

    def _kept(self) -> KeptDirections:
        return self._directions.get(0, lambda: _decompose(self.pair).keep(self.kept))

    def _a_rows(self, start: int, stop: int) -> torch.Tensor:
        return self._kept().a_rows(self.pair.a_rows(0, self.pair.links_rank), start, stop)

    def _b_rows(self, start: int, stop: int) -> torch.Tensor:
        return self._kept().b_rows(self.pair.b_rows(start, stop))

    def _magnitude_rows(self, start: int, stop: int) -> torch.Tensor:
        return self._magnitude()[start:stop].unsqueeze(1)

    def _magnitude(self) -> torch.Tensor:
        """``c |W + B' A'|`` row by row: the same c as before, on the weight with the new pair."""

        def make() -> torch.Tensor:
            pair = self.pair
            _, c, _ = pair.scales()
            _, norms = self._with_pair(self._a_rows(0, self.kept), self._b_rows(0, pair.out_features)).rescalings()
            return norms if c is None else norms * c

        return self._magnitudes.get(0, make)


@dataclass(frozen=True)
class TruncatedExperts:
    """The composed pair of a fused parameter, every expert cut to ``kept`` directions."""

    experts: ComposedExperts
    kept: int
    at_least: int = 0
    _directions: _Once[KeptDirections] = field(default_factory=_Once, compare=False, repr=False)

    @property
    def parameter(self) -> str:
        """Full path of the parameter."""
        return self.experts.parameter

    @property
    def rank(self) -> int:
        """Rank that each expert is written with."""
        return max(self.kept, self.at_least)

    def tensors(self) -> list[AdapterTensor]:
        """A and B."""
        return expert_tensors(self.experts.name, self.experts.fused, self.rank, self._a, self._b_rows)

    def expert_error(self, expert: int, dtype: torch.dtype) -> float:
        """See `written_error`; of one expert."""
        a, b = self.experts.a(expert), self.experts.b_rows(expert, 0, self.experts.fused.out_features)
        if not a.shape[0]:
            return 0.0
        kept, name = self._kept(expert), self.experts.name
        new_b, new_a = _as_written(kept.b_rows(b), dtype, name), _as_written(kept.a_rows(a), dtype, name)
        return distance(b, a, new_b, new_a)[0]

    def _kept(self, expert: int) -> KeptDirections:
        return self._directions.get(expert, lambda: _decompose_expert(self.experts, expert).keep(self.kept))

    def _a(self, expert: int) -> torch.Tensor:
        return self._kept(expert).a_rows(self.experts.a(expert))

    def _b_rows(self, expert: int, start: int, stop: int) -> torch.Tensor:
        return self._kept(expert).b_rows(self.experts.b_rows(expert, start, stop))
