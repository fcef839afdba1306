"""A block of a path's weights, and what somebody who merged that path may have got instead.

Whoever merges step by step rounds each delta and each partial sum; whoever sums first rounds once. Either may load or
save in another dtype than the base's, or turn the adapter into that dtype before it is merged. So a block has its exact
values, what roundings are relative to, and its *renderings*: what the usual ways of merging make of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch

from registry.tensors.arithmetic.rounding import round_into
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import Rescale, SetRows

SUM_ERROR: Final = 2.0**-20
"""Of sums in float32, relative to the sizes of what is summed."""

SHORT: Final = (torch.bfloat16, torch.float16)
"""The dtypes whose roundings are seen beside those of sums."""


@dataclass(frozen=True)
class RoundedBlock:
    """A block of a path's weights in float64."""

    values: torch.Tensor  # exact
    scale: torch.Tensor  # at least as large as whatever is rounded on the way
    reach: torch.Tensor  # as large as the terms of its sums, which may cancel
    factors: torch.Tensor  # as large as what is made of factors that somebody may have rounded before multiplying
    stepwise: Mapping[torch.dtype, torch.Tensor]  # as if merged step by step in that dtype

    def renderings(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """What a file of ``dtype`` holds of the block, by each of the usual ways."""
        for by, steps in self.stepwise.items():
            yield rounded(rounded(self.values, by), dtype)
            yield rounded(steps, dtype)
        if dtype not in self.stepwise:
            yield rounded(self.values, dtype)

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
    stepwise: dict[torch.dtype, torch.Tensor] = {}
    for number, (step, now) in enumerate(values.trace(index), -1):
        if step is None:
            scale = reach = now.abs()
            factors = torch.zeros_like(now)
            stepwise = {dtype: rounded(now, dtype) for dtype in dtypes}
        elif isinstance(step, Rescale):
            # a rescaling is by the same factor for the whole oriented row, whatever the element
            norms = [_norms(block, transposed=values.slot.transposed) for block in (before, now)]
            factor = (norms[1] / norms[0]).nan_to_num(1.0)
            scale = torch.maximum(scale * factor, now.abs())
            reach = torch.maximum(reach * factor, scale)
            factors = factors * factor + now.abs()  # the magnitudes are factors, too
            stepwise = {dtype: rounded(held * factor, dtype) for dtype, held in stepwise.items()}
        elif isinstance(step, SetRows):
            changed = now != before
            scale, reach = (torch.where(changed, now.abs(), old) for old in (scale, reach))
            factors = torch.where(changed, 0.0, factors)
            stepwise = {d: torch.where(changed, rounded(now, d), held) for d, held in stepwise.items()}
        else:
            delta = now - before
            scale = scale + delta.abs()
            bound = values.product_bound(number, index)
            reach, factors = reach + bound, factors + bound
            stepwise = {d: rounded(held + rounded(delta, d), d) for d, held in stepwise.items()}
        before = now.clone()
    return RoundedBlock(before, scale, reach, factors, stepwise)


def coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """Of two dtypes the one with fewer digits."""
    return max(one, other, key=lambda dtype: torch.finfo(dtype).eps)


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
