"""Which of many paths some weights may be those of, by the elements that stand for the base alone.

A candidate is struck out by another one if the weights clearly lie at that one, on the line between the two: the rule
of the comparator. So what is left has the path that they are those of, whichever it is, and paths that these few
elements don't tell from it. A path is replayed from the values after each of its links, also as if it had been merged
step by step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch

from registry.tensors.comparison.between import lies_at_one
from registry.tensors.comparison.rounded_path import SHORT, SUM_ERROR, Way, ways
from registry.tensors.comparison.sample import least_dtype
from registry.tensors.comparison.spots import Sampled, Spots
from registry.tensors.comparison.weighted import Weighted, WeightedSums

LISTED: Final = 5
"""The nearest candidates, which are told where none is left."""


_KEPT: Final = 2.0**-23  # fingerprints are rounded to float32, before and after a link
_SUMS: Final = 2.0**-30  # sums in float64, of factors that may cancel


@dataclass(frozen=True)
class Chain:
    """A path, as its values after each link, that of the base model first, in float32."""

    name: str
    states: Sequence[torch.Tensor]


@dataclass(frozen=True)
class Near:
    """How far a path is from the weights."""

    name: str
    distance: float  # |weights - path| / |path|


@dataclass(frozen=True)
class Narrowed:
    """What the elements show."""

    left: tuple[str, ...]  # that may be it, nearest first
    nearest: tuple[Near, ...]  # of all, nearest first; at most `LISTED`
    sum: tuple[Weighted, ...] = ()  # of links, that they look like: a hint


def narrow(chains: Iterable[Chain], found: Sampled, base: Sampled, spots: Spots) -> Narrowed:
    """Strike out all paths that some weights are clearly not those of.

    Args:
        chains: the paths, on one base model.
        found: the weights, by the names of the base's files.
        base: the base's.
        spots: which elements they are.
    """
    scale = _Scale.of(found, base, spots)
    left: list[_Rest] = []
    best: _Rest | None = None
    distances: list[Near] = []
    sums = WeightedSums(scale.beside(base))
    for chain in chains:
        if len(chain.states) > 1:
            sums.add(chain.name, scale.in_units(chain.states[-1] - chain.states[-2]))
        rest = _Rest(chain.name, scale.residual(chain))
        distances.append(Near(chain.name, scale.distance(chain)))
        if best is not None and best.strikes_out(rest, scale.elements):
            continue
        if best is None or rest.square < best.square:
            best = rest
        left.append(rest)
    if best is None:
        return Narrowed((), ())
    left = [one for one in left if one is best or not best.strikes_out(one, scale.elements)]
    left.sort(key=lambda one: one.square)
    nearest = sorted(distances, key=lambda one: one.distance)[:LISTED]
    return Narrowed(tuple(one.name for one in left), tuple(nearest), sums.found())


def narrow_links(chains: Iterable[Chain], found: Sampled) -> Narrowed:
    """Strike out all paths whose last link clearly does not add what an adapter adds.

    Args:
        chains: the paths, on one base model; that of the base model alone is none of them.
        found: what the adapter adds to the elements that stand for the base; see `.fingerprint.added`.
    """
    there = ~found.values.isnan()
    values = found.values[there]
    size = max(float(values.norm()), 1e-300)
    left: list[Near] = []
    distances: list[Near] = []
    for chain in chains:
        if len(chain.states) < 2 or not len(values):
            continue
        before, now = (state[there].to(torch.float64) for state in chain.states[-2:])
        apart = (now - before - values).abs().nan_to_num(torch.inf, torch.inf)
        near = Near(chain.name, float(apart.norm()) / size)
        distances.append(near)
        if bool((apart <= _KEPT * torch.maximum(before.abs(), now.abs()) + _SUMS * values.abs()).all()):
            left.append(near)
    left.sort(key=lambda one: one.distance)
    nearest = sorted(distances, key=lambda one: one.distance)[:LISTED]
    return Narrowed(tuple(one.name for one in left), tuple(nearest))


def replayed(states: Sequence[torch.Tensor], way: Way) -> torch.Tensor:
    """What a merge that goes step by step makes of the first state, in the precision of the states."""
    found = _rounded(states[0], way.dtype)
    for before, now in pairwise(states):
        delta = now - before
        step = _rounded(found + (_rounded(delta, way.dtype) if way.deltas else delta), way.dtype)
        found = torch.where(delta == 0, found, step)
    return found


def _rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values as they are after a rounding; those kept in float32 are rounded once."""
    return values.to(dtype).to(values.dtype)


class _Rest:
    """What is left of the weights beside one path, in units."""

    def __init__(self, name: str, residual: torch.Tensor) -> None:
        self.name = name
        self.residual = residual
        self.square = self.times(self)

    def times(self, other: _Rest) -> float:
        """The product of both."""
        return float(self.residual @ other.residual)

    def strikes_out(self, other: _Rest, elements: int) -> bool:
        return lies_at_one(self.square, self.times(other), other.square, elements)


@dataclass(frozen=True)
class _Scale:
    """The weights, and what differences from them are measured in."""

    values: torch.Tensor  # where they are there, else 0
    weights: torch.Tensor  # 1 over the unit of each; 0 where nothing is there
    kept: dict[torch.dtype, torch.Tensor]  # the elements that came through each dtype
    steps: tuple[torch.dtype, ...]  # in which they may have been merged step by step
    spots: Spots
    elements: int

    @classmethod
    def of(cls, found: Sampled, base: Sampled, spots: Spots) -> _Scale:
        there = ~found.values.isnan()
        eps = torch.zeros(spots.elements, dtype=torch.float64)
        kept: dict[torch.dtype, torch.Tensor] = {}
        steps: dict[torch.dtype, None] = {}
        for spot, stored, own in zip(spots.spots, found.dtypes, base.dtypes, strict=True):
            if stored is None or own is None:
                continue
            part = spots.slices[spot.tensor]
            least = least_dtype(found.values[part], stored)
            kept.setdefault(least, torch.zeros(spots.elements, dtype=torch.bool))[part] = True
            steps |= dict.fromkeys(dtype for dtype in (own, stored, least) if dtype in SHORT)
            eps[part] = max(torch.finfo(least).eps, SUM_ERROR)
        size = torch.maximum(found.values.nan_to_num(0.0).abs(), base.values.nan_to_num(0.0).abs())
        unit = (size * eps).clamp(min=torch.finfo(torch.float16).tiny * 2.0**-11)
        values = torch.where(there, found.values, 0.0).to(torch.float32)
        # nothing is left where nothing is there
        weights = torch.where(there, 1 / unit, 0.0).to(torch.float32)
        return cls(values, weights, kept, tuple(steps), spots, int(there.sum()))

    def residual(self, chain: Chain) -> torch.Tensor:
        """What is left, in units, beside the rendering that explains most of each tensor."""
        best, least = torch.zeros_like(self.values), torch.full((len(self.spots.spots),), math.inf)
        for rendering in self._renderings(chain):
            rest = ((self.values - rendering) * self.weights).nan_to_num_(0.0, 1e9, -1e9)
            squares = torch.zeros_like(least).index_add_(0, self.spots.owners, rest.square())
            nearer = squares < least
            least = torch.where(nearer, squares, least)
            best = torch.where(nearer[self.spots.owners], rest, best)
        return best

    def in_units(self, values: torch.Tensor) -> torch.Tensor:
        """Differences, in units; 0 where nothing is there."""
        return (values * self.weights).nan_to_num(0.0, 0.0, 0.0)

    def beside(self, base: Sampled) -> torch.Tensor:
        """What the weights are beside the base model, in units."""
        return self.in_units(self.values - base.values.to(torch.float32))

    def distance(self, chain: Chain) -> float:
        values = torch.where(self.weights > 0, chain.states[-1], 0.0).nan_to_num(0.0)
        return float((self.values - values).norm() / values.norm().clamp(min=1e-300))

    def _renderings(self, chain: Chain) -> Iterator[torch.Tensor]:
        yield self._kept(chain.states[-1])
        for dtype in self.steps:
            yield self._kept(_rounded(chain.states[-1], dtype))
        if len(chain.states) > 1:
            for way in ways(self.steps):
                yield self._kept(replayed(chain.states, way))

    def _kept(self, values: torch.Tensor) -> torch.Tensor:
        """Values as a file holds them."""
        if len(self.kept) == 1:
            return _rounded(values, next(iter(self.kept)))
        out = values
        for dtype, where in self.kept.items():
            out = torch.where(where, _rounded(values, dtype), out)
        return out
