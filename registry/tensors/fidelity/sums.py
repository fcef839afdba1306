"""The sums that fidelity is made of, over some rows of a weight: what was to change, and what did.

With W' = round(W) in the output's dtype and D the change that is meant, S = round(W + D) - W' is the change that the
rounded weights hold. W' and round(W + D) are a few digits each, so S is exact in float32 unless they lie 2^15 apart.

Memory of a lane for the few tensors that are made of some rows: used for the next rows again, so that it is warm.

Fresh memory for each costs a third of the time of measuring: the blocks of a merge go through all caches meanwhile.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch

from registry.tensors.arithmetic.rounding import round_into


class _Rooms(threading.local):
    def __init__(self) -> None:
        self.made: dict[tuple[str, torch.dtype], torch.Tensor] = {}


_rooms = _Rooms()


def room(name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of arbitrary values, contiguous; it is gone once this thread asks for the same name again."""
    size = math.prod(shape)
    found = _rooms.made.get((name, dtype))
    if found is None or found.numel() < size:
        found = _rooms.made[name, dtype] = torch.empty(size, dtype=dtype)
    return found[:size].view(tuple(shape))


_SMALLEST: Final = 2.0**-60  # of sums of squares in float32: squares of less than 2^-63 would lose digits


class Sums(NamedTuple):
    """Over some elements; sums of several add up."""

    elements: float
    changed: float  # those where D is not 0
    unchanged: float  # of these, those where S is 0
    energy: float  # |D|^2
    kept: float  # <S, D>
    lost: float  # |S - D|^2

    def times(self, factor: float) -> Sums:
        """As if there were ``factor`` times as many of each."""
        return Sums(*(factor * value for value in self))

    @property
    def is_exact(self) -> bool:
        """Whether sums in float32 neither overflowed nor lost digits of small numbers."""
        return not self.changed or (self.energy / self.changed > _SMALLEST and math.isfinite(self.energy + self.lost))


NOTHING: Final = Sums(0, 0, 0, 0, 0, 0)


def added(many: Iterable[Sums]) -> Sums:
    """The sum of several, in their order."""
    found = list(many)
    if len(found) == 1:
        return found[0]
    return Sums(*map(math.fsum, zip(*found, strict=True))) if found else NOTHING


def sums(before: torch.Tensor, change: torch.Tensor, after: torch.Tensor) -> Sums:
    """The sums of some rows, shape (rows, columns) each; call it on a lane of one thread.

    Args:
        before: W, in any precision.
        change: D, in the precision of the sums: float32 where the output has 16 bits, or float64.
        after: round(W + D), in the output's dtype.
    """
    moved = room("moved", change.shape, change.dtype)
    moved.copy_(after)
    moved -= in_dtype(before, after.dtype)
    d, s = change.view(-1), moved.view(-1)
    changed, unchanged = _count_changed(d, s)
    energy, kept = torch.dot(d, d).item(), torch.dot(s, d).item()
    s -= d
    return Sums(d.numel(), changed, unchanged, energy, kept, torch.dot(s, s).item())


def _count_changed(d: torch.Tensor, s: torch.Tensor) -> tuple[int, int]:
    """How many of D are not 0, and of how many of these S is 0."""
    # numpy compares and counts several times as fast as torch does
    is_changed, is_moved = (room(name, d.shape, torch.bool).numpy() for name in ("is changed", "is moved"))
    np.not_equal(d.numpy(), 0, out=is_changed)
    np.not_equal(s.numpy(), 0, out=is_moved)
    changed = np.count_nonzero(is_changed)
    np.logical_and(is_changed, is_moved, out=is_moved)
    return int(changed), int(changed - np.count_nonzero(is_moved))


def in_dtype(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values rounded once to a dtype; themselves where they have it."""
    if values.dtype is dtype:
        return values
    out = torch.empty(values.shape, dtype=dtype)
    round_into(out, values)
    return out
