"""What is left of weights beside paths, by the elements that stand for the base: in units of rounding, path by path.

A path is replayed from the values after each of its links, also as if it had been merged step by step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch

from registry.tensors.comparison.rounded_path import SHORT, SUM_ERROR, Way, ways
from registry.tensors.comparison.sample import least_dtype
from registry.tensors.comparison.spots import Sampled, Spots

_COARSEST: Final = 2.0**-7  # of the dtypes whose roundings are replayed


@dataclass(frozen=True)
class Scale:
    """The weights, and what differences from them are measured in."""

    values: torch.Tensor  # where they are there, else 0
    sizes: torch.Tensor  # of which roundings are relative
    weights: torch.Tensor  # 1 over the unit of each; 0 where nothing is there
    kept: dict[torch.dtype, torch.Tensor]  # the elements that came through each dtype
    steps: tuple[torch.dtype, ...]  # in which they may have been merged step by step
    spots: Spots
    elements: int

    @classmethod
    def of(cls, found: Sampled, base: Sampled, spots: Spots) -> Scale:
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
        return cls(values, size.to(torch.float32), weights, kept, tuple(steps), spots, int(there.sum()))

    def residuals(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """What is left of paths, a row each, in units, beside the rendering that explains most of each tensor."""
        best, least = None, torch.zeros(0)
        for rendering in self._renderings(states):
            rest = (self.values - rendering).mul_(self.weights).nan_to_num_(0.0, 1e9, -1e9)
            squares = self.spots.summed(rest.square())
            if best is None:
                best, least = rest, squares
                continue
            nearer = squares < least
            least = torch.where(nearer, squares, least)
            best = torch.where(nearer[:, self.spots.owners], rest, best)
        assert best is not None
        return best

    def bounds(self, states: Sequence[torch.Tensor]) -> tuple[list[float], list[float]]:
        """What is left of paths, a row each, in units: beside their values, and at least beside each rendering.

        A rendering is some roundings away: one unit for each sum, two for each delta, and two to begin with and to end,
        as long as no sum is above twice what it is measured by. Of a last sum that is, a share of it is left.
        """
        rest = (self.values - states[-1]).mul_(self.weights).nan_to_num_(0.0, 1e9, -1e9)
        squares: list[float] = rest.square().sum(dim=1).tolist()
        roundings = 3 * len(states)
        rest = rest.abs_().mul_(max(0.0, 1 - roundings * _COARSEST)).sub_(roundings).clamp_(min=0.0)
        for partial in states[1:-1]:
            rest[partial.abs() > 2 * self.sizes] = 0.0
        least: list[float] = rest.square_().sum(dim=1).tolist()
        return squares, least

    def in_units(self, values: torch.Tensor) -> torch.Tensor:
        """Differences, in units; 0 where nothing is there."""
        return (values * self.weights).nan_to_num(0.0, 0.0, 0.0)

    def beside(self, base: Sampled) -> torch.Tensor:
        """What the weights are beside the base model, in units."""
        return self.in_units(self.values - base.values.to(torch.float32))

    def distances(self, tips: torch.Tensor) -> list[float]:
        """How far the weights are from paths, a row each, as an estimate of |weights - path| / |path| over all."""
        values = torch.where(self.weights > 0, tips, 0.0).nan_to_num_(0.0)
        of_tensors = self.spots.stands_for.sqrt()
        apart, sizes = ((one * of_tensors).norm(dim=1) for one in (self.values - values, values))
        found: list[float] = (apart / sizes.clamp(min=1e-30)).tolist()
        return found

    def _renderings(self, states: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        yield self._kept(states[-1])
        for dtype in self.steps:
            if list(self.kept) != [dtype]:
                yield self._kept(_rounded(states[-1], dtype))
        if len(states) > 1:
            for way in ways(self.steps):
                yield self._kept(replayed(states, way))

    def _kept(self, values: torch.Tensor) -> torch.Tensor:
        """Values as a file holds them."""
        out = values
        for dtype, where in self.kept.items():
            out = _rounded(values, dtype) if len(self.kept) == 1 else torch.where(where, _rounded(values, dtype), out)
        return out


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
