"""The arithmetic of weights: blocks of base rows plus a product on a fixed grid, and one rounding at the end.

The grid depends on the matrix's shape only, and a short tail is padded, so that every row is always computed by the
same call on the same shapes, whatever range was requested. Products run in slices of the rank: sums stay short, which
keeps the rounding error of a deep path near that of a shallow one.

Tensors in memory that is used again once nobody holds any of it: `registry.files.source`.

The rounding goes from the sum's precision to the output dtype. torch rounds float64 to bf16 and fp16 by way of float32,
that is twice. Here the step to float32 rounds *to odd* (Boldo and Melquiond, "Emulation of FMA and correctly rounded
sums: proved algorithms using rounding to odd", 2008), after which the second rounding gives the nearest value, ties to
even, of the float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch

from registry.files.source import used_again
from registry.tensors.arithmetic.dtypes import FLOATS, OPTION_DTYPES

_LIMITS: Final[dict[torch.dtype, float]] = {
    torch.float16: 65520.0,
    torch.bfloat16: float.fromhex("0x1.ffp127"),
    torch.float32: float.fromhex("0x1.ffffffp127"),
    torch.float64: float("inf"),
}
"""Magnitudes from here on round to infinity: the largest finite value and half a unit in the last place."""


def limit_of(dtype: torch.dtype) -> float:
    """The least magnitude that a dtype does not hold."""
    return _LIMITS[dtype]


def sum_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """Precision of sums: float64 where a float64 tensor takes part, else float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def round_into(out: torch.Tensor, values: torch.Tensor) -> None:
    """Round ``values`` (float64 or float32) into ``out``, once, to nearest, ties to even."""
    if values.dtype is torch.float64 and out.dtype in (torch.bfloat16, torch.float16):
        values = _to_odd(values)
    out.copy_(values)


def widened_into(out: torch.Tensor, values: torch.Tensor) -> None:
    """Copy ``values`` into ``out`` for summation: float64 is rounded to odd into float32, for one more rounding."""
    out.copy_(_to_odd(values) if values.dtype is torch.float64 and out.dtype is torch.float32 else values)


_AT_ONCE: Final = 1 << 15
"""Elements whose passes stay in a processor's cache: that takes a fifth of the time."""
_DROPPED: Final = (1 << 29) - 1
"""The bits of a float64's significand that float32 lacks."""
_NORMAL: Final = 897 << 52
"""The bits of 2^-126, the least normal number of float32: smaller ones have fewer digits."""
_SIGN: Final = -(1 << 63)


def _to_odd(values: torch.Tensor) -> torch.Tensor:
    """float64 -> float32, an inexact result taking whichever neighbour has an odd significand."""
    out = torch.empty(values.shape, dtype=torch.float32)
    given, made = values.reshape(-1), out.view(-1)
    for at in range(0, len(made), _AT_ONCE):
        part = given[at : at + _AT_ONCE]
        bits = part.view(torch.int64)
        size = bits & ~_SIGN
        if bool(((size < _NORMAL) & (size != 0)).any()):
            made[at : at + _AT_ONCE] = _subnormal_to_odd(part)
            continue
        # Cut off, and the last bit that is left is set where a dropped one was: exact in float32.
        sticky = ((bits & _DROPPED) + _DROPPED) & (_DROPPED + 1)
        made[at : at + _AT_ONCE] = ((bits & ~_DROPPED) | sticky).view(torch.float64)
    return out


def _subnormal_to_odd(values: torch.Tensor) -> torch.Tensor:
    """The same where some results are subnormal."""
    near = values.to(torch.float32)
    back = near.to(torch.float64)
    bits = near.view(torch.int32)
    even_and_inexact = (back != values) & ((bits & 1) == 0) & values.isfinite()
    # One step of the integer moves to the neighbour: outward where the magnitude was rounded down, else inward.
    step = torch.where(back.abs() < values.abs(), 1, -1).to(torch.int32)
    return torch.where(even_and_inexact, bits + step, bits).view(torch.float32)


def holding(values: torch.Tensor) -> str:
    """The dtypes of ``--dtype`` that hold values which another does not, as named in an error; empty: none does."""
    return " or ".join(option for option, name in OPTION_DTYPES.items() if fits(values, FLOATS[name]))


def fits(values: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether every one of ``values`` is finite and stays so when rounded to ``dtype``."""
    if values.numel() == 0:
        return True
    low, high = torch.aminmax(values)
    limit = _LIMITS[dtype]
    return low.item() > -limit and high.item() < limit  # false for NaN too


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
