"""Figures of singular values: norms, and how many directions a delta has.

With singular values s_1 >= s_2 >= ..., energy E = sum s_i^2 and shares p_i = s_i^2 / E:

- Frobenius norm sqrt(E), spectral norm s_1;
- stable rank E / s_1^2 (Rudelson and Vershynin 2007);
- effective rank exp(-sum p_i ln p_i). Tools differ: Roy and Vetterli (2007) take p_i = s_i / sum s;
- the rank that holds a share P of the energy: the smallest k with s_1^2 + ... + s_k^2 >= P E. The best pair of that
  rank has a relative error of at most sqrt(1 - P) (Eckart and Young 1936).

Several matrices together are the blocks of one block-diagonal matrix: energies add up, the spectral norm is the
largest, the rank that holds a share is the smallest cap, equal for all, that does; stable and effective rank are means
weighted by energy, as those of the block-diagonal matrix would grow with the number of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

SHARES: Final = {"rank90": 0.90, "rank95": 0.95, "rank99": 0.99}
"""Names of the ranks that hold so much of the energy."""


def figures(spectra: Sequence[Sequence[float]], rank: int, base_norm: float | None) -> dict[str, Any]:
    """The fields of `registry.schemas.statistics.Figures` of some matrices together.

    Args:
        spectra: singular values of each matrix, largest first, zeros left out.
        rank: of the factors.
        base_norm: Frobenius norm of the base's weights that they change; None where it is not known.
    """
    energies = [math.fsum(value * value for value in values) for values in spectra]
    energy = math.fsum(energies)
    spectral = max((values[0] for values in spectra if values), default=0.0)
    frobenius = math.sqrt(energy)
    return {
        "rank": rank,
        "energy": energy,
        "frobenius": frobenius,
        "spectral": spectral,
        "stable_rank": _mean(stable_rank, spectra, energies),
        "effective_rank": _mean(effective_rank, spectra, energies),
        **ranks_that_hold(spectra),
        "relative_frobenius": frobenius / base_norm if base_norm else None,
        "relative_spectral": spectral / base_norm if base_norm else None,
    }


def stable_rank(values: Sequence[float]) -> float:
    """Energy over the largest singular value squared; 0 of a zero matrix."""
    return math.fsum((value / values[0]) ** 2 for value in values) if values else 0.0


def effective_rank(values: Sequence[float]) -> float:
    """The exponential of the entropy of the energy's shares; 0 of a zero matrix."""
    if not values:
        return 0.0
    shares = [(value / values[0]) ** 2 for value in values]
    total = math.fsum(shares)
    return math.exp(-math.fsum(share / total * math.log(share / total) for share in shares if share > 0))


def ranks_that_hold(spectra: Sequence[Sequence[float]]) -> dict[str, int]:
    """The smallest cap for all matrices that holds each of `SHARES` of their energy; 0 where they are zero."""
    left_out = _left_out(spectra)
    return {
        name: next(rank for rank, energy in enumerate(left_out) if energy <= (1 - share) * left_out[0])
        for name, share in SHARES.items()
    }


def energy_by_rank(spectra: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The share of the energy that a cap of 1, 2, ... for all matrices holds, up to the largest rank."""
    left_out = _left_out(spectra)
    return tuple(1 - energy / left_out[0] for energy in left_out[1:])


def _left_out(spectra: Sequence[Sequence[float]]) -> list[float]:
    """The energy that a cap of 0, 1, ... for all matrices leaves out."""
    longest = max((len(values) for values in spectra), default=0)
    found = [0.0]
    for k in reversed(range(longest)):
        found.append(found[-1] + math.fsum(values[k] ** 2 for values in spectra if k < len(values)))
    return found[::-1]


def _mean(
    figure: Callable[[Sequence[float]], float], spectra: Sequence[Sequence[float]], energies: Sequence[float]
) -> float:
    total = math.fsum(energies)
    if not total:
        return 0.0
    return math.fsum(energy / total * figure(values) for values, energy in zip(spectra, energies, strict=True))
