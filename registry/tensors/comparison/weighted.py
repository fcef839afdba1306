"""Which weighted sum of links some weights look like, by the elements that stand for the base: a hint, never a proof.

Siblings that a script averaged are on no path. Links are taken one by one, each time the one that explains most of what
is left (orthogonal matching pursuit, Pati et al. 1993), with the weights of least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappush, heapreplace
from itertools import count
from typing import Final

import torch

_TRIED: Final = 64  # links, those that are most like what is to be explained
_MOST: Final = 4  # links of a sum
_ROUNDING: Final = 0.7  # units, on average: 0.3 of one rounding, 0.5 of three
_ALIKE: Final = 0.9999  # cosine of links that no weights tell apart


@dataclass(frozen=True)
class Weighted:
    """A link of a sum."""

    name: str  # of the path that it ends
    weight: float


@dataclass
class WeightedSums:
    """Collects what links add, in units of rounding, and finds the sum of them that weights are."""

    wanted: torch.Tensor  # what the weights are beside the base, in units of rounding
    _numbers: count[int] = field(default_factory=count)
    _best: list[tuple[float, int, str, torch.Tensor]] = field(default_factory=list)

    def add(self, names: Sequence[str], deltas: torch.Tensor) -> None:
        """Take in what more links add, a row each, in the same units."""
        likeness = ((deltas @ self.wanted).abs() / deltas.norm(dim=1)).tolist()  # NaN where nothing is added
        for at, (name, like) in enumerate(zip(names, likeness, strict=True)):
            if len(self._best) < _TRIED and like >= 0:
                heappush(self._best, (like, next(self._numbers), name, deltas[at].clone()))
            elif self._best and like > self._best[0][0]:
                heapreplace(self._best, (like, next(self._numbers), name, deltas[at].clone()))

    def found(self) -> tuple[Weighted, ...]:
        """The sum of several links that leaves nothing but roundings; none: no sum does, or others do as well."""
        best = sorted(self._best, reverse=True, key=_likeness)
        atoms = [(name, delta.to(torch.float64)) for _, _, name, delta in best]
        wanted = self.wanted.to(torch.float64)
        rest, chosen = wanted, list[int]()
        weights = torch.zeros(0, dtype=torch.float64)
        while len(chosen) < min(_MOST, len(atoms)) and not _is_rounding(rest):
            left = [number for number in range(len(atoms)) if number not in chosen]
            like = [abs(float(atoms[number][1] @ rest)) / float(atoms[number][1].norm()) for number in left]
            chosen.append(left[max(range(len(left)), key=like.__getitem__)])
            terms = torch.stack([atoms[number][1] for number in chosen], dim=1)
            weights = torch.linalg.lstsq(terms, wanted.unsqueeze(1)).solution.squeeze(1)
            rest = wanted - terms @ weights
        if len(chosen) < 2 or not _is_rounding(rest) or _others_are_alike(chosen, [one for _, one in atoms]):
            return ()
        return tuple(Weighted(atoms[number][0], float(weight)) for number, weight in zip(chosen, weights, strict=True))


def _likeness(one: tuple[float, int, str, torch.Tensor]) -> tuple[float, int]:
    return one[0], -one[1]


def _is_rounding(rest: torch.Tensor) -> bool:
    changed = rest != 0
    return not bool(changed.any()) or float(rest[changed].square().mean().sqrt()) <= _ROUNDING


def _others_are_alike(chosen: Sequence[int], atoms: Sequence[torch.Tensor]) -> bool:
    """Whether a link that was not chosen adds the same as one that was, up to a factor."""
    units = [atom / atom.norm() for atom in atoms]
    return any(
        abs(float(units[one] @ units[other])) > _ALIKE
        for one in chosen
        for other in range(len(atoms))
        if other not in chosen
    )
