"""A block of a path's weights, and what somebody who merged that path may have got instead.

Whoever merges step by step rounds each partial sum, and before that each delta (PEFT's ``safe_merge``) or not (its
default); whoever sums first rounds once. Either may load or
save in another dtype than the base's, or turn the adapter into that dtype before it is merged. So a block has its exact
values, what roundings are relative to, and its *renderings*: what the usual ways of merging make of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch

from registry.tensors.arithmetic.rounding import round_into
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import Rescale, SetRows

SUM_ERROR: Final = 2.0**-20
"""Of sums in float32, relative to the sizes of what is summed."""

SHORT: Final = (torch.bfloat16, torch.float16)
"""The dtypes whose roundings are seen beside those of sums."""


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

    def flat(self) -> RoundedBlock:
        """The same as one row of elements."""
        return RoundedBlock(
            self.values.flatten(),
            self.scale.flatten(),
            self.reach.flatten(),
            self.factors.flatten(),
            {way: held.flatten() for way, held in self.stepwise.items()},
        )

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


def rounded_block(values: SlotValues, index: int, dtypes: Iterable[torch.dtype] = ()) -> RoundedBlock:
    """Block ``index`` of a slot after its path; ``dtypes``: those in which it may have been merged step by step.

    The products of ``values`` must be stages of their own (``merge_products=False``).
    """
    before = scale = reach = factors = torch.empty(0)
    stepwise: dict[Way, torch.Tensor] = {}
    for number, (step, now) in enumerate(values.trace(index), -1):
        if step is None:
            scale = reach = now.abs()
            factors = torch.zeros_like(now)
            stepwise = {way: rounded(now, way.dtype) for way in ways(dtypes)}
        elif isinstance(step, Rescale):
            # a rescaling is by the same factor for the whole oriented row, whatever the element
            norms = [_norms(block, transposed=values.slot.transposed) for block in (before, now)]
            factor = (norms[1] / norms[0]).nan_to_num(1.0)
            scale = torch.maximum(scale * factor, now.abs())
            reach = torch.maximum(reach * factor, scale)
            factors = factors * factor + now.abs()  # the magnitudes are factors, too
            stepwise = {way: rounded(held * factor, way.dtype) for way, held in stepwise.items()}
        elif isinstance(step, SetRows):
            changed = now != before
            scale, reach = (torch.where(changed, now.abs(), old) for old in (scale, reach))
            factors = torch.where(changed, 0.0, factors)
            stepwise = {way: torch.where(changed, rounded(now, way.dtype), held) for way, held in stepwise.items()}
        else:
            delta = now - before
            scale = scale + delta.abs()
            bound = values.product_bound(number, index)
            reach, factors = reach + bound, factors + bound
            stepwise = {way: way.plus(held, delta) for way, held in stepwise.items()}
        before = now.clone()
    return RoundedBlock(before, scale, reach, factors, stepwise)


def rounded_elements(
    values: SlotValues, rows: torch.Tensor, columns: torch.Tensor, origin: torch.Tensor, dtypes: Iterable[torch.dtype]
) -> RoundedBlock:
    """The same for chosen elements of a slot to which products are added, one a step.

    Args:
        values: in float64, the products being stages of their own.
        rows: stored rows of the elements.
        columns: theirs.
        origin: what the base has there, in float64.
        dtypes: as for `rounded_block`.
    """
    found, scale, reach = origin, origin.abs(), origin.abs()
    factors = torch.zeros_like(origin)
    stepwise = {way: rounded(origin, way.dtype) for way in ways(dtypes)}
    for number in range(values.products):
        left, right = values.product(number)
        b, a = left[rows], right.T[columns]
        delta = torch.einsum("er,er->e", b, a)
        bound = torch.linalg.vector_norm(b, dim=1) * torch.linalg.vector_norm(a, dim=1)
        scale, reach, factors = scale + delta.abs(), reach + bound, factors + bound
        stepwise = {way: way.plus(held, delta) for way, held in stepwise.items()}
        found = found + delta
    return RoundedBlock(found, scale, reach, factors, stepwise)


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
