"""A slot after its path as ``scale * W + B A`` over the base's W, where some stored rows are set: never multiplied out.

Products add up to one of the sum of their ranks. A rescaling (DoRA) multiplies oriented rows, so it goes into the scale
and into the B of all products before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import Rescale, SetRows


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
    if values.replaces:
        raise ValueError(f"{values.slot.tensor} is replaced as a whole, which is no change of low rank")
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
