"""Deltas of one matrix beside each other: their small cores, what those have in common, and angles between subspaces.

With the factors of all of them side by side, [B_1 B_2 ...] = Q T and [A_1^T A_2^T ...] = P S (QR), each delta is
B_i A_i = Q (T_i S_i^T) P^T. Q and P have orthonormal columns, so norms, inner products, singular values and angles of
the deltas are those of the cores T_i S_i^T, which are as small as the sum of the ranks. Inner products are right to
about 1e-15 ||B_1|| ||A_1|| ||B_2|| ||A_2||, also where links cancel, and no delta is ever made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from registry.tensors.arithmetic.blocks import block_rows
from registry.tensors.path.stacked_pairs import StackedPairs
from registry.tensors.truncation.truncate import split_core, triangle

EPS: Final = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Core:
    """One delta in the bases that all of them share: left diag(values) right^T, zeros left out."""

    values: torch.Tensor  # singular values, largest first
    left: torch.Tensor  # (., rank), of its column space, which is of outputs
    right: torch.Tensor  # (., rank), of its row space, which is of inputs

    @property
    def rank(self) -> int:
        """The numerical rank of the delta."""
        return self.values.shape[0]

    @property
    def norm(self) -> float:
        """The Frobenius norm of the delta."""
        return math.hypot(*self.values.tolist())

    def unit(self) -> torch.Tensor:
        """The core over its norm, which must not be 0."""
        return (self.left * (self.values / self.norm)) @ self.right.T


def cores(deltas: Sequence[StackedPairs], name: str) -> list[Core]:
    """The cores of deltas of one matrix; of those without pairs too. Call it on a lane.

    A singular value counts if it is above max(m, n) eps of the largest, and above the rounding of the factors.

    Args:
        deltas: of matrices of one shape (m, n).
        name: of the module, for the error.

    Raises:
        InvalidAdapterError: ``overflow``, a delta is not finite, or its square leaves float64.
    """
    out_features, in_features = deltas[0].out_features, deltas[0].in_features
    width = sum(one.rank for one in deltas)
    step = max(block_rows(out_features, max(1, width)), 4 * width)

    def blocks() -> Iterator[torch.Tensor]:
        for start in range(0, out_features, step):
            stop = min(start + step, out_features)
            yield torch.cat([one.b_rows(start, stop, torch.float64) for one in deltas], dim=1)

    b = triangle(blocks())
    a = triangle([torch.cat([one.a(torch.float64) for one in deltas]).T])
    found, first = [], 0
    for one in deltas:
        own = slice(first, first := first + one.rank)
        found.append(_core(b[:, own], a[:, own], EPS * max(out_features, in_features), EPS * width, name))
    return found


def _core(b: torch.Tensor, a: torch.Tensor, relative: float, rounding: float, name: str) -> Core:
    left, values, right = split_core(b, a, rounding=rounding, relative=relative, name=name, what="compared")
    return Core(values, left, right.T)


def inner_product(a: Core, b: Core) -> float:
    """The inner product of two deltas over their norms; 0 where one of them is zero."""
    if not a.rank or not b.rank:
        return 0.0
    return max(-1.0, min(1.0, float((a.unit() * b.unit()).sum())))


def principal_angles(a: torch.Tensor, b: torch.Tensor) -> tuple[float, ...]:
    """Angles between two subspaces, smallest first, in radians: as many as the smaller one has dimensions.

    The cosines are the singular values of a^T b; those of what is left of b beside a are the sines, from which small
    angles come, as the cosine of a small angle says nothing of it in float64 (Bjorck and Golub 1973).

    Args:
        a, b: orthonormal columns.
    """
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    if not b.shape[1]:
        return ()
    shared = a.T @ b
    cosines = torch.linalg.svdvals(shared).clamp(max=1.0)
    sines = torch.linalg.svdvals(b - a @ shared).flip(0).clamp(max=1.0)
    angles = torch.where(cosines**2 < 0.5, torch.acos(cosines), torch.asin(sines))
    return tuple(angles.tolist())
