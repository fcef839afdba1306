"""A block of a path's weights, and what somebody who merged that path may have got instead.

Whoever merges step by step rounds each partial sum, and before that each delta (PEFT's ``safe_merge``) or not (its
default); whoever sums first rounds once. Either may load or save in another dtype than the base's, or turn the adapter
into that dtype before it is merged. So a block has its exact values, what roundings are relative to, and its
*renderings*: what the usual ways of merging make of it. Sums in float32 differ by the order of their terms, so a
rendering is an interval, nearly always of one number: what lies in none of them was made in no usual way.

``model.half()`` and PEFT's ``autocast_adapter_dtype=False`` turn adapters into a short dtype before they are merged.
Rounded factors add something else than the adapter's delta, by more than a rounding of the sum, so the bits only show
it if the same rounding is replayed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Final, NamedTuple

import torch

from registry.files.source import ByteSource
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.kernel import round_into
from registry.tensors.checkpoint.factors import FactorMatrix
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import Add, Rescale, SetRows, Step


@dataclass(frozen=True)
class _Rounded:
    """A factor, its numbers rounded when they are read."""

    matrix: FactorMatrix
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def read(self, source: ByteSource, start: int, stop: int, /) -> torch.Tensor:
        return self.matrix.read(source, start, stop).to(self.dtype)


@dataclass(frozen=True)
class _RoundedRescale(Rescale):
    """A rescaling to rounded magnitudes."""

    short: torch.dtype = torch.float32

    def read(self, dtype: torch.dtype) -> torch.Tensor:
        return super().read(torch.float64).to(self.short).to(dtype)  # of an IA3 the sum with 1, a little otherwise


def with_rounded_factors(program: Program, dtype: torch.dtype) -> Program | None:
    """The same program, its factors and magnitudes rounded to ``dtype``; None: they are of it already, or none."""
    steps = tuple(_rounded(step, dtype) for step in program.steps)
    return None if steps == program.steps else replace(program, steps=steps)


def _rounded(step: Step, dtype: torch.dtype) -> Step:
    if isinstance(step, Add):
        a, b = (one if one.dtype is dtype else _Rounded(one, dtype) for one in (step.pair.a, step.pair.b))
        return replace(step, pair=replace(step.pair, a=a, b=b))
    if isinstance(step, Rescale) and FLOATS[step.entry.dtype] is not dtype:
        given = {field.name: getattr(step, field.name) for field in fields(step)}
        return _RoundedRescale(**given, short=dtype)
    return step


SUM_ERROR: Final = 2.0**-20
"""Of sums in float32, relative to the sizes of what is summed."""

_OF_A_SUM: Final = 2.0**-23
"""Of one sum or product in float32, relative to what it is; twice its rounding."""
_OF_NORMS: Final = 2.0**-21
"""Of norms in float32 and what is divided by them."""
_OF_OTHER_NORMS: Final = 2.0**-16
"""How far the norm of a column is from that of the same one, each of its elements rounded to 8 bits."""

Bounds = tuple[torch.Tensor, torch.Tensor]
"""The least and the most that values can be."""

SHORT: Final = (torch.bfloat16, torch.float16)
"""The dtypes whose roundings are distinguished from those of sums."""


class Way(NamedTuple):
    """How somebody merges step by step."""

    dtype: torch.dtype  # that partial sums are rounded to
    deltas: bool  # whether each delta is rounded to it first

    def plus(self, values: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """A partial sum after one more delta, both in float64."""
        return rounded(values + (rounded(delta, self.dtype) if self.deltas else delta), self.dtype)


def ways(dtypes: Iterable[torch.dtype]) -> tuple[Way, ...]:
    """The usual ways of merging step by step in some dtypes."""
    return tuple(Way(dtype, deltas) for dtype in dtypes for deltas in (True, False))


@dataclass(frozen=True)
class RoundedBlock:
    """A block of a path's weights in float64."""

    values: torch.Tensor  # exact
    scale: torch.Tensor  # at least as large as whatever is rounded on the way
    reach: torch.Tensor  # as large as the terms of its sums, which may cancel
    factors: torch.Tensor  # as large as what is made of factors that somebody may have rounded before multiplying
    stepwise: Mapping[Way, torch.Tensor]  # as if merged step by step
    bounds: Mapping[Way, Bounds]  # the same, whatever sums in float32 give

    def flat(self) -> RoundedBlock:
        """The same as one row of elements."""
        return RoundedBlock(
            self.values.flatten(),
            self.scale.flatten(),
            self.reach.flatten(),
            self.factors.flatten(),
            {way: held.flatten() for way, held in self.stepwise.items()},
            {way: (least.flatten(), most.flatten()) for way, (least, most) in self.bounds.items()},
        )

    @property
    def at_once(self) -> Bounds:
        """What summing first gives before it is rounded, whatever sums in float32 give."""
        slack = _slack(self.scale, self.factors)
        return self.values - slack, self.values + slack

    def explained(self, values: torch.Tensor, way: Way | None, dtype: torch.dtype, by: torch.dtype) -> torch.Tensor:
        """Which ``values`` one way of merging gives, bit for bit, in a file of ``dtype`` that came through ``by``."""
        least, most = self.at_once if way is None else self.bounds[way]
        within = (values >= rounded(rounded(least, by), dtype)) & (values <= rounded(rounded(most, by), dtype))
        # a base may hold numbers that are not finite, in unused rows
        return within | (values == self.values) | (values.isnan() & self.values.isnan())

    def explained_by_one(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Which ``values`` the way of merging gives that gives most of them."""
        ways_and_dtypes: list[tuple[Way | None, torch.dtype]] = [(way, dtype) for way in self.stepwise]
        ways_and_dtypes += [(None, by) for by in {dtype, *(way.dtype for way in self.stepwise)}]
        found = (self.explained(values, way, dtype, by) for way, by in ways_and_dtypes)
        return max(found, key=lambda one: int(one.count_nonzero()))

    def renderings(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """What a file of ``dtype`` holds of the block, by each of the usual ways."""
        for by in {dtype, *(way.dtype for way in self.stepwise)}:
            yield rounded(rounded(self.values, by), dtype)
        for steps in self.stepwise.values():
            yield rounded(steps, dtype)

    def unit(self, dtype: torch.dtype) -> torch.Tensor:
        """The largest error of one rounding to ``dtype``, or of sums in float32, for each element."""
        info = torch.finfo(dtype)
        error = torch.maximum(self.scale * info.eps, self.reach * SUM_ERROR)
        return error.clamp(min=info.tiny * info.eps)

    def factor_error(self, dtype: torch.dtype) -> torch.Tensor:
        """The largest error where the factors were rounded to ``dtype`` first: a half of a unit for each of two."""
        return self.factors * torch.finfo(dtype).eps


def _slack(scale: torch.Tensor, terms: torch.Tensor) -> torch.Tensor:
    """How far sums in float32 may be off; not at all where nothing is added."""
    return torch.where(terms > 0, scale * _OF_A_SUM + terms * SUM_ERROR, 0.0)


def _plus(way: Way, bounds: Bounds, delta: torch.Tensor, slack: torch.Tensor) -> Bounds:
    """What a partial sum may be after one more delta, which is known up to ``slack``."""
    least, most = bounds
    return way.plus(least, delta - slack), way.plus(most, delta + slack)


def rounded_block(
    values: SlotValues, index: int, dtypes: Iterable[torch.dtype] = (), *, bounded: bool = False
) -> RoundedBlock:
    """Block ``index`` of a slot after its path; ``dtypes``: those in which it may have been merged step by step.

    ``bounded``: also compute what these explain.

    The products of ``values`` must be stages of their own (``merge_products=False``).
    """
    before = scale = reach = factors = torch.empty(0)
    stepwise: dict[Way, torch.Tensor] = {}
    bounds: dict[Way, Bounds] = {}
    for number, (step, now) in enumerate(values.trace(index), -1):
        if step is None:
            scale = reach = now.abs()
            factors = torch.zeros_like(now)
            stepwise = {way: rounded(now, way.dtype) for way in ways(dtypes)}
            bounds = {way: (held, held) for way, held in stepwise.items()} if bounded else {}
        elif isinstance(step, Rescale):
            # a rescaling is by the same factor for the whole oriented row, whatever the element
            turned = values.slot.transposed or step.by_input
            norms = [_norms(block, transposed=turned) for block in (before, now)]
            factor = (norms[1] / norms[0]).nan_to_num(1.0)
            scale = torch.maximum(scale * factor, now.abs())
            reach = torch.maximum(reach * factor, scale)
            factors = factors * factor + now.abs()  # the magnitudes are factors, too
            own = {}
            for way, held in stepwise.items():
                # of columns a block has not all, and the norm of the exact ones is nearly that of these
                one = factor if turned else (norms[1] / _norms(held, transposed=False)).nan_to_num(1.0)
                if bounded:
                    slack = (_OF_OTHER_NORMS if turned else _OF_NORMS) * (held * one).abs()
                    least, most = bounds[way]
                    bounds[way] = rounded(least * one - slack, way.dtype), rounded(most * one + slack, way.dtype)
                own[way] = rounded(held * one, way.dtype)
            stepwise = own
        elif isinstance(step, SetRows):
            changed = now != before
            scale, reach = (torch.where(changed, now.abs(), old) for old in (scale, reach))
            factors = torch.where(changed, 0.0, factors)
            new = {way: rounded(now, way.dtype) for way in stepwise}
            stepwise = {way: torch.where(changed, new[way], held) for way, held in stepwise.items()}
            bounds = {
                way: (torch.where(changed, new[way], least), torch.where(changed, new[way], most))
                for way, (least, most) in bounds.items()
            }
        else:
            delta = now - before
            scale = scale + delta.abs()
            bound = values.product_bound(number, index)
            reach, factors = reach + bound, factors + bound
            slack = _slack(scale, bound)
            if values.rescales(number + 1):  # of one link: rounded once, after that
                stepwise = {way: held + delta for way, held in stepwise.items()}
                bounds = {way: (least + delta - slack, most + delta + slack) for way, (least, most) in bounds.items()}
            else:
                stepwise = {way: way.plus(held, delta) for way, held in stepwise.items()}
                bounds = {way: _plus(way, both, delta, slack) for way, both in bounds.items()}
        before = now.clone()
    return RoundedBlock(before, scale, reach, factors, stepwise, bounds)


def rounded_elements(
    values: SlotValues, rows: torch.Tensor, columns: torch.Tensor, origin: torch.Tensor, dtypes: Iterable[torch.dtype]
) -> RoundedBlock:
    """The same for chosen elements of a slot to which products are added, one a step.

    Args:
        values: in float64, the products being stages of their own.
        rows: stored rows of the elements.
        columns: theirs.
        origin: the base's values of the elements, in float64.
        dtypes: as for `rounded_block`.
    """
    found, scale, reach = origin, origin.abs(), origin.abs()
    factors = torch.zeros_like(origin)
    stepwise = {way: rounded(origin, way.dtype) for way in ways(dtypes)}
    bounds = {way: (held, held) for way, held in stepwise.items()}
    for number in range(values.products):
        left, right = values.product(number)
        b, a = left[rows], right.T[columns]
        delta = torch.einsum("er,er->e", b, a)
        bound = torch.linalg.vector_norm(b, dim=1) * torch.linalg.vector_norm(a, dim=1)
        scale, reach, factors = scale + delta.abs(), reach + bound, factors + bound
        stepwise = {way: way.plus(held, delta) for way, held in stepwise.items()}
        slack = _slack(scale, bound)
        bounds = {way: _plus(way, both, delta, slack) for way, both in bounds.items()}
        found = found + delta
    return RoundedBlock(found, scale, reach, factors, stepwise, bounds)


def coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """Of two dtypes the one with fewer digits."""
    return max(one, other, key=lambda dtype: torch.finfo(dtype).eps)


def last_place(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The unit in the last place of each value in a dtype."""
    info = torch.finfo(dtype)
    return torch.ldexp(torch.full_like(values, info.eps), torch.frexp(values.clamp(min=info.tiny))[1] - 1)


def links_of(program: Program) -> int:
    """How many links of a path change a slot: as often a merge that goes step by step rounds."""
    return len({step.link for step in program.steps})


def rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64 values as they are after one rounding to ``dtype``; too large ones at its limit."""
    out = torch.empty(values.shape, dtype=dtype)
    limit = torch.finfo(dtype).max
    round_into(out, values.clamp(-limit, limit))
    return out.to(torch.float64)


def _norms(block: torch.Tensor, *, transposed: bool) -> torch.Tensor:
    """Norms of a block's oriented rows (the rows of this block alone where they are columns), to be broadcast."""
    norms: torch.Tensor = torch.linalg.vector_norm(block, dim=0 if transposed else 1, keepdim=True)
    return norms
