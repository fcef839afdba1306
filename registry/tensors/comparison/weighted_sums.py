"""Which weighted sum of links some weights look like, by the elements that stand for the base: a hint, never a proof.

Siblings that a script summed are on no path, nor is twice one of them. Links are taken one by one, each time the one
that explains most of what is left (orthogonal matching pursuit, Pati et al. 1993), with the weights of least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from heapq import heappush, heapreplace
from itertools import count
from typing import Final

import torch

_TRIED: Final = 64  # links, those that are most like what is to be explained
_MOST: Final = 4  # links of a sum
_ROUNDING: Final = 0.7  # units, on average: 0.3 of one rounding, 0.5 of three
_ALIKE: Final = 0.99  # cosine of links that are nearly the same
_EXCHANGED: Final = 128  # sums that are tried with links that are nearly the same
_TELLING: Final = 16.0  # four standard errors, squared
_LEAST: Final = 1e-3  # squared units that are left of an element at least


@dataclass(frozen=True)
class Weighted:
    """A link of a sum."""

    name: str  # of the path that it ends
    weight: float
    alike: tuple[str, ...] = ()  # others that leave hardly more in its place


@dataclass
class WeightedSums:
    """Collects what links add, in units of rounding, and finds the sum of them that weights are."""

    wanted: torch.Tensor  # the difference of the weights from the base, in units of rounding
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
        """The sum of links that leaves nothing but roundings; none: no sum does.

        Of links that are nearly alike, as the steps of one training are, those that leave least with plain weights.
        """
        best = sorted(self._best, reverse=True, key=lambda one: (one[0], -one[1]))
        sums = _Sums([one.to(torch.float64) for *_, one in best], self.wanted.to(torch.float64))
        if not best or _is_rounding(sums.wanted):
            return ()
        chosen = sums.pursued(apart=True) or sums.pursued(apart=False)
        return tuple(
            Weighted(best[number][2], weight, tuple(best[other][2] for other in alike))
            for number, weight, alike in sums.plainest(chosen)
        )


@dataclass(frozen=True)
class _Sums:
    """Links and what they are to explain, in units of rounding."""

    atoms: Sequence[torch.Tensor]
    wanted: torch.Tensor

    def pursued(self, *, apart: bool) -> list[int]:
        """Links whose sum leaves nothing but roundings, one by one; none: no more than `_MOST` do.

        ``apart``: of links that are nearly alike at most one, the one that leaves least.
        """
        chosen, rest, left = list[int](), self.wanted, set(range(len(self.atoms)))
        while left and len(chosen) < _MOST:
            like = {one: abs(float(self.atoms[one] @ rest)) / float(self.atoms[one].norm()) for one in left}
            chosen.append(max(sorted(left), key=like.__getitem__))
            if apart:
                left -= set(self._like(chosen[-1]))
                for at in range(len(chosen)):
                    chosen = min(self._others(chosen, [at]), key=lambda links: self._fit(links).square)
            left -= set(chosen)
            if _is_rounding(rest := self._fit(chosen).rest):
                return chosen
        return []

    def plainest(self, chosen: Sequence[int]) -> list[tuple[int, float, list[int]]]:
        """A sum, or one with links that are nearly the same which leaves less with plain weights.

        Returns:
            Its links with their weights, and the links that would leave hardly more in the place of each.
        """
        if not chosen:
            return []
        fits = [self._fit(links) for links in self._others(chosen, range(len(chosen)))]
        telling = _TELLING * max(min(one.square for one in fits) / max(1, len(self.wanted)), _LEAST)
        fits = sorted((self._plain(one, telling) for one in fits), key=lambda one: one.square)
        first = fits[0]
        alike = [list(one.terms) for one in fits if one.square - first.square < telling]
        return [
            (link, weight, sorted({links[at] for links in alike} - {link}))
            for at, (link, weight) in enumerate(first.terms.items())
        ]

    def _plain(self, fit: _Fit, telling: float) -> _Fit:
        """A sum with weights as people type them, twentieths and thirds, unless it clearly leaves more with those."""
        plain = {link: _typed(weight) for link, weight in fit.terms.items()}
        rest = self.wanted - sum(weight * self.atoms[link] for link, weight in plain.items())
        typed = _Fit(plain, rest)
        return typed if typed.square - fit.square < telling else replace(fit, more=telling)

    def _others(self, chosen: Sequence[int], places: Sequence[int]) -> list[list[int]]:
        """A sum, and those with links that are nearly the same at some ``places``; of one place, if they are many."""
        found = [list(chosen)]
        for at in places:
            like = self._like(chosen[at])
            if len(found) * len(like) <= _EXCHANGED:
                found = [[*links[:at], link, *links[at + 1 :]] for links in found for link in like]
        return [links for links in found if len(set(links)) == len(links)]

    def _like(self, number: int) -> list[int]:
        """The links that are nearly the same as one, up to a factor; that one is among them."""
        found: list[int] = (self._cosines[number].abs() > _ALIKE).nonzero().flatten().tolist()
        return found

    @cached_property
    def _cosines(self) -> torch.Tensor:
        units = torch.stack([one / one.norm() for one in self.atoms])
        return units @ units.T

    def _fit(self, links: Sequence[int]) -> _Fit:
        """A sum with the weights of least squares."""
        terms = torch.stack([self.atoms[number] for number in links], dim=1)
        weights = torch.linalg.lstsq(terms, self.wanted.unsqueeze(1)).solution.squeeze(1)
        return _Fit(dict(zip(links, weights.tolist(), strict=True)), self.wanted - terms @ weights)


@dataclass(frozen=True)
class _Fit:
    """A sum of links, and what it leaves."""

    terms: dict[int, float]  # weights by link
    rest: torch.Tensor
    more: float = 0.0  # that it counts for more than it leaves

    @cached_property
    def square(self) -> float:
        """The sum of the squares of what it leaves."""
        return float(self.rest.square().sum()) + self.more


def _typed(weight: float) -> float:
    """The nearest weight that a person may have typed."""
    return min((round(weight * parts) / parts for parts in (20, 3)), key=lambda one: abs(one - weight))


def _is_rounding(rest: torch.Tensor) -> bool:
    changed = rest != 0
    return not bool(changed.any()) or float(rest[changed].square().mean().sqrt()) <= _ROUNDING
