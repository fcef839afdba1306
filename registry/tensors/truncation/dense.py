"""Truncation of a matrix that is no product of low rank: pairs that are nearest to it, with their measured error.

With orthonormal columns Q and Q^T D = U S V^T, the pair ``(Q U)_k (S V^T)_k`` errs by

    |D - (Q U)_k (S V^T)_k|^2  =  |D - Q Q^T D|^2  +  s_(k+1)^2 + s_(k+2)^2 + ...

whatever Q is, since what lies outside of Q is orthogonal to what lies in it. The first term is measured on every
element of what is left, never as the difference of two large numbers, so that the error is that of this very pair: how
near Q is to the best decides how good the pair is, and not whether its error is true.

A small matrix is decomposed (LAPACK), and its pairs are the best. Of a large one Q is found by random projection and
powers of ``D D^T`` (Halko, Martinsson, Tropp 2011), until one of them lowers the squared error by less than 1e-4 of it.

All of it is float64. Call it on a lane (`registry.tensors.arithmetic.threads`): LAPACK's bits may depend on the number
of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from registry.errors import InvalidAdapterError

DECOMPOSED: Final = 1 << 20
"""Elements of a matrix that is decomposed, whatever rank is wanted."""
HELD: Final = 1 << 26
"""Elements of a matrix that is held in memory, in float64; of larger ones each pass makes the blocks again."""
SHARE: Final = 4
"""A pair of more than a fourth of the smaller side has half as many numbers as a square matrix: none is sought."""

_OVERSAMPLED: Final = 10
_ENOUGH: Final = 1e-4
_POWERS: Final = 8
_FIRST: Final = 32
_SEED: Final = 20260803
_LARGEST: Final = 1e150  # the squares of larger numbers leave float64


class Blocks(Protocol):
    """A matrix whose blocks of rows are made on demand."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    def blocks(self) -> Iterator[torch.Tensor]:
        """The blocks in order, in float64, each with all columns; whoever takes one may change it."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """A pair L R near a matrix D, whose first k columns and rows are one, too, for every k.

    A direction's value is shared out evenly between the two, up to a power of two.
    """

    left: torch.Tensor  # (rows, rank), float64
    right: torch.Tensor  # (rank, columns), float64
    values: tuple[float, ...]  # norms of the directions, largest first
    rest: float  # |D - L R|_F^2


def nearest(matrix: Blocks, *, rank: int | None, max_error: float, name: str) -> Nearest:
    """The pair of a rank, or of the rank that an error needs.

    Args:
        matrix: what it is to be near to.
        rank: the largest that may be kept; None: as many as ``max_error`` needs, within `SHARE`.
        max_error: ||D - L R||_F / ||D||_F that is enough without a rank.
        name: of the module, for the error.

    Raises:
        InvalidAdapterError: ``overflow``, the matrix is not finite, or its square leaves float64.
    """
    held = _Held(matrix, name)
    least = min(matrix.shape)
    if held.energy == 0:
        return Nearest(torch.zeros(matrix.shape[0], 0), torch.zeros(0, matrix.shape[1]), (), 0.0)
    if matrix.shape[0] * matrix.shape[1] <= DECOMPOSED:
        return _decomposed(held, least)
    if rank is not None and SHARE * rank >= least:
        return _decomposed(held, rank)
    if rank is not None:
        return _projected(held, rank)
    most, width = least // SHARE, _FIRST
    while True:
        found = _projected(held, min(width, most))
        if found.rest <= max_error**2 * held.energy or width >= most:
            return found
        width *= 2


class _Held:
    """A matrix, in memory if it is not too large, and products with it."""

    def __init__(self, matrix: Blocks, name: str) -> None:
        self.rows, self.columns = matrix.shape
        self._matrix = matrix
        self._kept: list[torch.Tensor] | None = [] if self.rows * self.columns <= HELD else None
        squares = []
        for block in matrix.blocks():
            squares.append(_square(block))
            if self._kept is not None:
                self._kept.append(block)
        self.energy = math.fsum(squares)
        if not self.energy < _LARGEST:
            raise InvalidAdapterError(
                f"The change of {name} is too large or not finite, so it can't be truncated; publish factors of a "
                "usual size.",
                code="overflow",
            )

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The blocks and where each begins; nobody may change them."""
        at = 0
        for block in self._matrix.blocks() if self._kept is None else self._kept:
            yield at, block
            at += block.shape[0]

    def times(self, right: torch.Tensor) -> torch.Tensor:
        """D X."""
        return torch.cat([block @ right for _, block in self.blocks()])

    def turned_times(self, left: torch.Tensor) -> torch.Tensor:
        """D^T Y."""
        sums = torch.zeros(self.columns, left.shape[1], dtype=torch.float64)
        for at, block in self.blocks():
            sums.addmm_(block.T, left[at : at + block.shape[0]])
        return sums

    def distance(self, left: torch.Tensor, right: torch.Tensor) -> float:
        """|D - L R|_F^2, of every element."""
        return math.fsum(
            _square(torch.addmm(block, left[at : at + block.shape[0]], right, alpha=-1)) for at, block in self.blocks()
        )


def _decomposed(held: _Held, rank: int) -> Nearest:
    """The best pair of a rank."""
    whole = torch.cat([block for _, block in held.blocks()])
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    return _shared_out(held, left[:, :rank], values[:rank], right[:rank])


def _projected(held: _Held, rank: int) -> Nearest:
    """A pair of a rank that is nearly the best."""
    drawn = torch.randn(
        held.columns, rank + _OVERSAMPLED, generator=torch.Generator().manual_seed(_SEED), dtype=torch.float64
    )
    basis = torch.linalg.qr(held.times(drawn)).Q
    image = held.turned_times(basis)
    left_out = held.energy - _square(image)
    for _ in range(_POWERS):
        basis = torch.linalg.qr(held.times(torch.linalg.qr(image).Q)).Q
        image = held.turned_times(basis)
        before, left_out = left_out, held.energy - _square(image)
        if before - left_out <= _ENOUGH * left_out:
            break
    turned, values, right = torch.linalg.svd(image.T, full_matrices=False)
    return _shared_out(held, basis @ turned[:, :rank], values[:rank], right[:rank])


def _shared_out(held: _Held, left: torch.Tensor, values: torch.Tensor, right: torch.Tensor) -> Nearest:
    """The pair of orthonormal directions and what each is worth, but for those that rounding made."""
    noise = torch.finfo(torch.float64).eps * max(held.rows, held.columns) * values[0].item()
    count = int((values > noise).sum())
    left, values, right = left[:, :count], values[:count], right[:count]
    found: list[float] = values.tolist()
    share = torch.tensor([2.0 ** round(math.log2(value) / 2) for value in found], dtype=torch.float64)
    strongest = right.gather(1, right.abs().argmax(dim=1, keepdim=True))[:, 0]
    share = torch.where(strongest < 0, -share, share)
    left, right = left * (values / share), right * share[:, None]
    return Nearest(left, right, tuple(found), held.distance(left, right))


def _square(values: torch.Tensor) -> float:
    """|values|_F^2."""
    flat = values.reshape(-1)
    return torch.dot(flat, flat).item()
