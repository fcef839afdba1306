"""The best pair of a rank, or of an error, for a delta that is dense.

By Eckart and Young (1936) it is what the truncated SVD leaves. Two ways find the directions. *Randomised*
(`registry.tensors.extraction.directions`), for a rank that is given: passes over the delta in float32 go on until one
of them lowers the error by less than 3e-7 of it. *Full*: all eigenvalues of the smaller Gram matrix in float64, and
one half step of iteration for directions that squaring blurs; it is taken where an error is given, since the lowest
rank is to be found, where the rank is no small part of the matrix, and where next to nothing is left out, which float32
could not see. How a pair is written is up to `registry.tensors.truncation.truncate`.

The error is that of the pair as it is written, in float32, measured on every element in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from registry.errors import AccuracyError
from registry.tensors.extraction.delta import HeldDelta, stacked
from registry.tensors.extraction.directions import OVERSAMPLED, directions
from registry.tensors.truncation.rank_choice import rounded_up
from registry.tensors.truncation.truncate import decompose

_SEVERAL: Final = 14
"""How many times the rank the smaller side has, or the full way costs less: for a flat spectrum the basis of directions
grows to 7 times the rank and more."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for: a rank for every module, or an error that none of them exceeds."""

    rank: int | None = None
    max_error: float | None = None
    full: bool = False  # the full SVD, also for a rank


@dataclass(frozen=True, eq=False)
class BestPair:
    """L R near a delta as it is stored, in float32, and how near."""

    left: torch.Tensor  # (rows, rank)
    right: torch.Tensor  # (rank, columns)
    energy: float  # |D|_F^2
    discarded: float  # |D - L R|_F^2

    @property
    def rank(self) -> int:
        """Columns of L."""
        return self.left.shape[1]

    @property
    def error(self) -> float:
        """|D - L R|_F / |D|_F; 0 where D is 0."""
        return math.sqrt(self.discarded / self.energy) if self.energy > 0 else 0.0


def best_pair(delta: HeldDelta, wanted: Wanted, name: str) -> BestPair:
    """The best pair of one delta.

    Args:
        delta: of one matrix.
        wanted: what is asked for.
        name: of the module, for errors.

    Raises:
        AccuracyError: rounding to float32 alone costs more than the error that is asked for.
        InvalidAdapterError: ``overflow``, see `registry.tensors.truncation.truncate.decompose`.
    """
    if delta.energy == 0:
        return BestPair(torch.zeros(delta.rows, 1), torch.zeros(1, delta.columns), 0.0, 0.0)
    most = min(delta.rows, delta.columns)
    if wanted.max_error is not None:
        return _within(delta, _Spectrum(delta), wanted.max_error, name)
    assert wanted.rank is not None, "a rank or an error is asked for"
    rank = min(wanted.rank, most)
    if not wanted.full and _SEVERAL * (rank + OVERSAMPLED) <= most:
        found = directions(delta, rank)
        if found is not None:
            return _cut(delta, *found, rank, name)
    return _Spectrum(delta).pair(rank, name)


def _cut(delta: HeldDelta, b: torch.Tensor, a: torch.Tensor, rank: int, name: str) -> BestPair:
    """The best pair of a rank within B A, written and measured."""
    kept = decompose(b, a, name=name).keep(rank)
    left, right = kept.b_rows(b).to(torch.float32), kept.a_rows(a).to(torch.float32)
    return BestPair(left, right, delta.energy, delta.distance(left, right))


class _Spectrum:
    """All singular values of a delta, by the eigenvalues of its smaller Gram matrix."""

    def __init__(self, delta: HeldDelta) -> None:
        self._delta = delta
        self._turned = delta.rows < delta.columns
        whole = stacked(list(delta.exact())) if self._turned else None
        gram = torch.zeros(min(delta.rows, delta.columns), min(delta.rows, delta.columns), dtype=torch.float64)
        if whole is not None:
            torch.mm(whole, whole.T, out=gram)
        else:
            for block in delta.exact():
                gram.addmm_(block.T, block)
        unit = 2.0 ** math.frexp(gram.diagonal().max().item())[1]
        values, vectors = torch.linalg.eigh(gram / unit)
        self._vectors = vectors.flip(1)
        energies = (values.flip(0).clamp(min=0) * unit).tolist()
        self.left_out = [0.0]  # the energy that rank k leaves out, from the largest k to 0
        for energy in reversed(energies):
            self.left_out.append(self.left_out[-1] + energy)
        self.left_out.reverse()

    def lowest(self, max_error: float) -> int:
        """The lowest rank that leaves out at most an error."""
        allowed = max_error**2 * self._delta.energy
        return next(rank for rank in range(1, len(self.left_out)) if self.left_out[rank] <= allowed)

    def pair(self, rank: int, name: str) -> BestPair:
        """The best pair of a rank."""
        vectors = self._vectors[:, :rank]
        if self._turned:
            right = self._turned_times(vectors)  # D^T U
            basis = torch.linalg.qr(right).Q
            return _cut(self._delta, self._times(basis), basis.T, rank, name)
        basis = torch.linalg.qr(self._times(vectors)).Q
        return _cut(self._delta, basis, self._turned_times(basis).T, rank, name)

    def _times(self, right: torch.Tensor) -> torch.Tensor:
        return torch.cat([block @ right for block in self._delta.exact()])

    def _turned_times(self, left: torch.Tensor) -> torch.Tensor:
        sums, at = torch.zeros(self._delta.columns, left.shape[1], dtype=torch.float64), 0
        for block in self._delta.exact():
            sums.addmm_(block.T, left[at : at + block.shape[0]])
            at += block.shape[0]
        return sums


def _within(delta: HeldDelta, spectrum: _Spectrum, max_error: float, name: str) -> BestPair:
    """The lowest rank whose pair, as it is written, is within the error."""
    most = min(delta.rows, delta.columns)
    rank = spectrum.lowest(max_error)
    found = spectrum.pair(rank, name)
    step = 1
    while found.error > max_error and rank < most:  # by the rounding of what is written
        rank, step = min(rank + step, most), 2 * step
        found = spectrum.pair(rank, name)
    if found.error > max_error:
        raise AccuracyError(
            f"{name}: written in float32 at full rank the error is {rounded_up(found.error)}, more than the requested "
            f"{max_error:g}. Ask for --max-error {rounded_up(found.error)} or more."
        )
    return found
