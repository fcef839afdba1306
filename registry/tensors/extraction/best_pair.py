"""The best pair of a rank, or of an error, for a delta that is dense.

By Eckart and Young (1936) it is what the truncated SVD leaves. Two ways find the directions. *Randomised*
(`registry.tensors.extraction.best_pair`), for a rank that is given: passes over the delta in float32 go on until one
of them lowers the error by less than 3e-7 of it. *Full*: all eigenvalues of the smaller Gram matrix in float64, and
one half step of iteration for directions that squaring blurs; it is taken where an error is given, since the lowest
rank is to be found, where the rank is no small part of the matrix, and where next to nothing is left out, which float32
could not see. How a pair is written is up to `registry.tensors.truncation.truncate`.

The error is that of the pair as it is written, in float32, measured on every element in float64.

The directions that hold nearly all that a rank can, of a delta that is only multiplied.

Rayleigh and Ritz on the Gram matrix of the delta's smaller side, in a basis that grows (block Davidson without a
preconditioner, which is block Krylov iteration where all residuals are taken: Musco and Musco 2015). It begins as wide
as the rank and a little more, so that singular values that are equal are all seen: a narrow start finds of each as many
as it is wide, and stops. It then takes a third as many directions with each pass, those in which the wanted ones are
furthest from done, and comes as near with three quarters of the products of passes as wide as the rank. The delta is
multiplied in float32; what is small besides is float64.

Directions are rows here, as products with few rows are fast that way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from registry.errors import AccuracyError
from registry.tensors.extraction.delta import HeldDelta, stacked
from registry.tensors.truncation.rank_choice import rounded_up
from registry.tensors.truncation.truncate import decompose

OVERSAMPLED: Final = 10
ENOUGH: Final = 3e-7
MOST_BLOCKS: Final = 16
_SEED: Final = 20111107
_VISIBLE: Final = 1e-3  # of the energy: float32 sees no errors whose square is below
_LANES: Final = 16  # numbers of directions that products are fast with are multiples


class Multiplied(Protocol):
    """A matrix D (rows, columns) that is multiplied in float32."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> int: ...

    @property
    def energy(self) -> float:
        """|D|_F^2."""

    def times(self, directions: torch.Tensor) -> torch.Tensor:
        """X D^T for X (k, columns), shape (k, rows)."""

    def turned_times(self, directions: torch.Tensor) -> torch.Tensor:
        """X D for X (k, rows), shape (k, columns)."""


def directions(delta: Multiplied, rank: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """B (rows, rank) and A (rank, columns), in float64, whose product is nearly the best of the rank.

    None where that is not found: float32 can't see what is left out, or so many passes cost more than the full way.

    Args:
        delta: whose smaller side is several times the rank.
        rank: 1 or more.
    """
    search = _Search(delta, rank)
    before = math.inf
    while True:
        error = search.error()
        if before - error <= ENOUGH * error:
            return search.pair()
        if error < _VISIBLE or not search.has_room:
            return None
        before = error
        search.grow()


class _Search:
    """An orthonormal basis V of some directions of the smaller side, and what the Gram matrix M makes of them.

    M V^T = V^T G + Q^T C: G and C are known from the products, and Q is an orthonormal basis of the part of them
    orthogonal to V. A vector V^T y that is wanted, y of G, has the residual Q^T C y. The delta counts in a unit in
    which its norm is about 1, so that squares stay within float32.
    """

    def __init__(self, delta: Multiplied, rank: int) -> None:
        self._delta, self._rank = delta, rank
        self._unit = 2.0 ** -math.frexp(math.sqrt(delta.energy))[1]
        self._turned = delta.rows < delta.columns
        size, other = sorted((delta.rows, delta.columns))
        width = min(_LANES * math.ceil((rank + OVERSAMPLED) / _LANES), size)
        self._step = max(_LANES, width // 3 // _LANES * _LANES)
        most = max(width, min(5 * size // 8, MOST_BLOCKS * width))
        self._basis = torch.empty(most, size, dtype=torch.float64)  # V
        self._images = torch.empty(most, other)  # of V
        self._gram = torch.zeros(most, most, dtype=torch.float64)  # G
        self._beside = torch.zeros(0, size, dtype=torch.float64)  # Q
        self._residuals = torch.zeros(0, most, dtype=torch.float64)  # C
        self._count = 0
        self._energies = self._wanted = torch.zeros(0)
        drawn = torch.randn(width, other, generator=torch.Generator().manual_seed(_SEED))
        self._add(_orthonormal(self._back(drawn).to(torch.float64)))

    @property
    def has_room(self) -> bool:
        """Whether the basis may grow by one more pass."""
        return self._count + self._step <= self._basis.shape[0]

    def error(self) -> float:
        """The share of |D|_F^2 that the best of the rank in the basis leaves out."""
        count = self._count
        energies, vectors = torch.linalg.eigh(self._gram[:count, :count])
        self._wanted = vectors[:, -self._rank :]
        return 1 - math.fsum(energies[-self._rank :].tolist()) / (self._delta.energy * self._unit**2)

    def grow(self) -> None:
        """Take the directions of the largest residuals into the basis."""
        turned = torch.linalg.svd(self._residuals[:, : self._count] @ self._wanted).U.T
        beside, residuals = turned @ self._beside, turned @ self._residuals
        self._beside, self._residuals = beside[self._step :], residuals[self._step :]
        self._add(_orthonormal(self._less_basis(beside[: self._step])[0]))

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The best of the rank in the basis, as B and A."""
        to = self._wanted.T
        own = to @ self._basis[: self._count]
        image = to @ self._images[: self._count].to(torch.float64) / self._unit
        return (own.T, image) if self._turned else (image.T, own)

    def _add(self, rows: torch.Tensor) -> None:
        """Put orthonormal rows into the basis, and what M makes of them into G, Q and C."""
        start, stop = self._count, self._count + rows.shape[0]
        short = rows.to(torch.float32)
        self._basis[start:stop] = short
        self._count = stop
        images = self._images[start:stop]
        torch.mul(self._forth(short), self._unit, out=images)
        made, inside = self._less_basis(self._back(images).to(torch.float64).mul_(self._unit))
        self._gram[start:stop, :stop] = inside
        self._gram[:stop, start:stop] = inside.T
        beside = made @ self._beside.T
        made.addmm_(beside, self._beside, alpha=-1)
        own, triangle = torch.linalg.qr(made.T)
        both = torch.zeros(self._beside.shape[0] + own.shape[1], self._residuals.shape[1], dtype=torch.float64)
        both[: self._beside.shape[0]] = self._residuals
        both[: self._beside.shape[0], start:stop] = beside.T
        both[self._beside.shape[0] :, start:stop] = triangle
        self._beside, self._residuals = torch.cat([self._beside, own.T]), both

    def _less_basis(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows without what they have of the basis, and how much of it they had."""
        basis = self._basis[: self._count]
        inside = rows @ basis.T
        left = torch.addmm(rows, inside, basis, alpha=-1)
        again = left @ basis.T  # the first time leaves roundings
        return left.addmm_(again, basis, alpha=-1), inside.add_(again)

    def _forth(self, rows: torch.Tensor) -> torch.Tensor:
        return self._delta.turned_times(rows) if self._turned else self._delta.times(rows)

    def _back(self, rows: torch.Tensor) -> torch.Tensor:
        return self._delta.times(rows) if self._turned else self._delta.turned_times(rows)


def _orthonormal(rows: torch.Tensor) -> torch.Tensor:
    """Orthonormal rows with the same span."""
    found: torch.Tensor = torch.linalg.qr(rows.T).Q
    return found.T


_SEVERAL: Final = 14
"""How many times the rank the smaller side has, or the full way costs less: for a flat spectrum the basis of directions
grows to 7 times the rank and more."""


@dataclass(frozen=True)
class Wanted:
    """The requested limit: a rank for every module, or an error that none of them exceeds."""

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
        wanted: the requested limit.
        name: of the module, for errors.

    Raises:
        AccuracyError: rounding to float32 alone costs more than the requested error.
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
