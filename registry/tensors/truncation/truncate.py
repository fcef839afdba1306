"""Truncation of one matrix's delta: the SVD of B A from its factors, and the best pair of a lower rank.

With B = Qb Rb and A^T = Qa Ra (QR) and Rb Ra^T = U S V^T (SVD of a small core), the SVD of B A is
(Qb U) S (Qa V)^T. The dense delta never exists, and neither do Qb and Qa, because

    Qb U S  = B (Ra^T V)            and            (Qa V)^T = (S^-1 U^T Rb) A,

so the best pair of rank r is the given factors times two small matrices (R x r), and its rows can be computed block by
block when they are read. By Eckart and Young (1936) no pair of rank r is nearer to B A, in the Frobenius or the
spectral norm: the errors are sqrt(sum of s_i^2 for i > r) and s_(r+1), known from the singular values alone.

For DoRA, whose merged weight is diag(c) (W + B A), the optimum is that of diag(c) B A (c scales rows). The same two
identities hold with Rb from diag(c) B, and un-scaling needs no division: the left factor is still B (Ra^T V), so rows
with c = 0 are ordinary rows.

All of it is float64, because it costs little (2.9 ms for the triangle of 5632 x 64, where float32 takes 1.3 ms), and
the absolute error of a singular value is then about 1e-15 ||B|| ||A||. Call it on a lane
(`registry.tensors.arithmetic.threads`): LAPACK's bits may depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from registry.errors import InvalidAdapterError
from registry.tensors.arithmetic.kernel import add_product

BLOCK_ROWS: Final = 2048
_LARGEST: Final = 1e150  # the squares of larger singular values leave float64


@dataclass(frozen=True, eq=False)
class KeptDirections:
    """The best pair of a rank as two small matrices: B' = B ``to_b`` and A' = ``to_a`` A."""

    to_b: torch.Tensor  # (R, rank), float64
    to_a: torch.Tensor  # (rank, R), float64

    @property
    def rank(self) -> int:
        """Rank of the new pair."""
        return self.to_a.shape[0]

    def b_rows(self, b: torch.Tensor) -> torch.Tensor:
        """Rows of B', float64 (rows, rank), from the same rows of B (rows, R) with the scales folded in."""
        return _product(b.to(torch.float64), self.to_b)

    def a_rows(self, a: torch.Tensor, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of A', float64 (rows, in_features), from the whole of A (R, in_features)."""
        return _product(self.to_a[start:stop], a.to(torch.float64))


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The singular value decomposition of a delta diag(c) B A, in terms of the factors that it was made from."""

    singular_values: tuple[float, ...]  # largest first; those that are zero up to rounding are left out
    to_b: torch.Tensor  # (R, rank), see `KeptDirections`
    to_a: torch.Tensor  # (rank, R)

    @property
    def rank(self) -> int:
        """Rank of the delta: the number of its singular values that are not zero."""
        return len(self.singular_values)

    def keep(self, rank: int) -> KeptDirections:
        """The best pair of at most ``rank`` (1 or more); a delta of a lower rank stays whole, a zero one is zeros."""
        if rank < 1:
            raise AssertionError("a pair has a rank of at least 1")
        if not self.singular_values:
            width = self.to_b.shape[0]
            return KeptDirections(
                torch.zeros(width, 1, dtype=torch.float64), torch.zeros(1, width, dtype=torch.float64)
            )
        return KeptDirections(self.to_b[:, :rank].clone(), self.to_a[:rank].clone())


def decompose(
    b: torch.Tensor, a: torch.Tensor, row_weights: torch.Tensor | None = None, *, name: str = "a module"
) -> Decomposition:
    """Decompose the delta of one matrix.

    Args:
        b: (out_features, R) of any float dtype, the scales folded in.
        a: (R, in_features) of any float dtype.
        row_weights: c of a DoRA path, (out_features,); None where c = 1. Zeros and negative values are fine.
        name: of the module, for the error.

    Raises:
        InvalidAdapterError: ``overflow``, the delta is not finite, or its square leaves float64.
    """
    return from_triangles(triangle(_row_blocks(b, row_weights)), triangle(_row_blocks(a.T)), name=name)


def triangle(blocks: Iterable[torch.Tensor]) -> torch.Tensor:
    """R of the QR decomposition of a matrix (rows, R) that comes in blocks of rows; float64, at most R rows.

    A matrix with no more rows than columns is given back as it is, as such a matrix is its own small core. Blocks keep
    the memory bounded and the panel in the cache (TSQR: Demmel, Grigori, Hoemmen, Langou 2012).
    """
    stacked: torch.Tensor | None = None
    for block in blocks:
        rows = block.to(torch.float64)
        stacked = rows if stacked is None else torch.cat([stacked, rows])
        if stacked.shape[0] > stacked.shape[1]:
            stacked = torch.linalg.qr(stacked, mode="r").R
    if stacked is None:
        raise AssertionError("a matrix has rows")
    return stacked


def from_triangles(b: torch.Tensor, a: torch.Tensor, *, name: str = "a module") -> Decomposition:
    """Decompose the delta from the triangles of diag(c) B and of A^T, both with R columns.

    Each direction's singular value is shared out evenly between the two factors, up to a power of two: both stay far
    from the limits of fp16, and the scaling rounds nothing. Its sign is such that the largest of its coefficients in
    ``to_a`` is positive. What lies below the rounding of the core counts as zero, so that a delta of a low rank gets
    no directions made of noise.

    Raises:
        InvalidAdapterError: ``overflow``, see `decompose`.
    """
    u, s, vt = split_core(b, a, rounding=torch.finfo(torch.float64).eps * b.shape[1], name=name, what="truncated")
    if not s.numel():
        return Decomposition((), b.new_zeros(b.shape[1], 0), b.new_zeros(0, b.shape[1]))
    to_b = a.T @ vt.T
    to_a = (u.T @ b) / s[:, None]
    values: list[float] = s.tolist()
    share = torch.tensor([2.0 ** round(math.log2(value) / 2) for value in values], dtype=torch.float64)
    strongest = to_a.gather(1, to_a.abs().argmax(dim=1, keepdim=True))[:, 0]
    share = torch.where(strongest < 0, -share, share)
    return Decomposition(tuple(values), to_b / share, to_a * share[:, None])


def split_core(
    b: torch.Tensor, a: torch.Tensor, *, rounding: float, relative: float = 0.0, name: str, what: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The singular value decomposition of a core b a^T, in float64, without what counts as zero.

    Args:
        b, a: two triangles, or columns of them.
        rounding: a singular value up to this share of |b| |a| is what rounding left.
        relative: and so is one up to this share of the largest.
        name, what: of the module, and what can't be done with it, for the error.

    Returns:
        Left vectors as columns, values with the largest first, right vectors as rows; of a zero core none.

    Raises:
        InvalidAdapterError: ``overflow``, the delta is not finite, or its square leaves float64.
    """
    core = b @ a.T
    largest = core.abs().max().item() if core.numel() else 0.0
    noise = rounding * _norm(b) * _norm(a)
    if not largest < _LARGEST or not noise < _LARGEST:
        raise InvalidAdapterError(
            f"The delta of {name} is too large or not finite, so it can't be {what}; publish factors of a usual size.",
            code="overflow",
        )
    if largest == 0.0:
        return core.new_zeros(core.shape[0], 0), core.new_zeros(0), core.new_zeros(0, core.shape[1])
    unit = 2.0 ** math.frexp(largest)[1]
    left, values, right = torch.linalg.svd(core / unit, full_matrices=False)
    values = values * unit
    rank = int((values > max(noise, relative * values[0].item())).sum())
    return left[:, :rank], values[:rank], right[:rank]


def distance(
    b: torch.Tensor,
    a: torch.Tensor,
    other_b: torch.Tensor,
    other_a: torch.Tensor,
    row_weights: torch.Tensor | None = None,
) -> tuple[float, float]:
    """Frobenius and spectral norm of diag(c) (B A - B' A') for two pairs of any ranks and dtypes, never made dense.

    This is how far the factors that were written are from what they stand for, their rounding included. Right to about
    1e-13 of the factors' norms.
    """
    both_b = torch.cat([b.to(torch.float64), other_b.to(torch.float64)], dim=1)
    both_a = torch.cat([a.to(torch.float64), -other_a.to(torch.float64)])
    values = decompose(both_b, both_a, row_weights).singular_values
    return math.hypot(*values), max(values, default=0.0)


def _row_blocks(matrix: torch.Tensor, row_weights: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
    """The matrix in blocks of rows, float64, each row times its weight."""
    step = max(BLOCK_ROWS, 4 * matrix.shape[1])
    for start in range(0, matrix.shape[0], step):
        rows = matrix[start : start + step].to(torch.float64)
        if row_weights is not None:
            rows = rows * row_weights[start : start + step].to(torch.float64)[:, None]
        yield rows


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    sums = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float64)
    add_product(sums, left, right)
    return sums


def _norm(matrix: torch.Tensor) -> float:
    return torch.linalg.matrix_norm(matrix).item() if matrix.numel() else 0.0
