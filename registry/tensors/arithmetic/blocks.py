"""The block kernel: rows of a base weight plus the rows of a product, on a fixed grid.

The grid depends on the matrix's shape only, and a short tail is padded, so that every row is always computed by the
same call on the same shapes, whatever range was asked for. Products run in slices of the rank: sums stay short, which
keeps the rounding error of a deep path near that of a shallow one.

Tensors in memory that is used again once nobody holds any of it: `registry.files.buffers`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch

from registry.files.buffers import used_again
from registry.tensors.arithmetic.rounding import fits, round_into


def scratch(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of arbitrary values, aligned as torch aligns its own: products may depend on that."""
    found = used_again(math.prod(shape) * dtype.itemsize)
    if found is None:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(found, dtype=dtype).view(tuple(shape))


BLOCK_ELEMENTS: Final = 1 << 20
MIN_ROWS: Final = 16
MAX_ROWS: Final = 8192
RANK_SLICE: Final = 32
RANK_GROUP: Final = 256


def block_rows(rows: int, columns: int) -> int:
    """Rows of one block of the grid over a (rows, columns) matrix."""
    fitting = max(MIN_ROWS, min(MAX_ROWS, BLOCK_ELEMENTS // max(1, columns)))
    power = 1 << (fitting.bit_length() - 1)
    return min(power, -(-rows // MIN_ROWS) * MIN_ROWS)


def pad_rows(matrix: torch.Tensor, multiple: int) -> torch.Tensor:
    """The matrix with rows of zeros appended up to a multiple."""
    short = -matrix.shape[0] % multiple
    return torch.nn.functional.pad(matrix, (0, 0, 0, short)) if short else matrix


def add_product(accumulator: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """accumulator (rows, columns) += left (rows, R) @ right (R, columns), in the accumulator's precision.

    Short slices, summed in groups, bound the error of the sum: it grows with the length of a slice plus the number of
    slices plus the number of groups, not with R (pairwise summation, Higham 1993, cut off at two levels).
    """
    rank = left.shape[1]
    for group in range(0, rank, RANK_GROUP):
        sums = accumulator if rank <= RANK_GROUP else torch.zeros_like(accumulator)
        for start in range(group, min(group + RANK_GROUP, rank), RANK_SLICE):
            stop = min(start + RANK_SLICE, rank)
            sums.addmm_(left[:, start:stop], right[start:stop])
        if sums is not accumulator:
            accumulator += sums


def rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """A new tensor with the values rounded once to ``dtype``; None where one is not finite or too large for it."""
    out = scratch(values.shape, dtype)
    round_into(out, values)
    # A sum is not finite where an element is not, and a sum of what was just rounded costs a quarter of `fits`. It may
    # overflow though every element fits.
    return out if math.isfinite(out.sum().item()) or fits(values, dtype) else None
