"""Fused parameters of experts that a path replaces: their whole values, put together from where the files keep them.

A replacement is kept only where files and running model have the same orientation (`registry.tensors.path.programs`),
so the pieces one after another are the rows of the parameter, seen as (experts * rows, columns).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from registry.tensors.composed.adapter_tensors import AdapterTensor
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.table.held import FusedParameter


def whole_experts(name: str, fused: FusedParameter, pieces: Sequence[SlotValues]) -> AdapterTensor:
    """The whole parameter.

    Args:
        name: of the tensor.
        fused: the parameter.
        pieces: the values of its pieces, by expert, then by output feature.
    """
    sizes = (fused.out_features, fused.in_features)
    shape = (fused.experts, *(reversed(sizes) if fused.transposed else sizes))

    def rows(start: int, stop: int) -> torch.Tensor:
        parts, at = [], 0
        for values in pieces:
            first, last = max(start, at), min(stop, at + values.slot.rows)
            if first < last:
                parts.append(_slot_rows(values, first - at, last - at))
            at += values.slot.rows
        return torch.cat(parts)

    return AdapterTensor(name, shape, rows, columns=shape[2])


def _slot_rows(values: SlotValues, start: int, stop: int) -> torch.Tensor:
    """Any rows of a slot, cut out of whole blocks of its grid."""
    step = values.rows_a_block
    first = start // step
    blocks = torch.cat([values.block(index) for index in range(first, -(-stop // step))])
    return blocks[start - first * step : stop - first * step]
