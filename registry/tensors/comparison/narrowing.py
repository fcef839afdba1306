"""Which of many paths some weights may be those of, by a fixed sample of elements alone.

A candidate is struck out by another one if the weights clearly lie at that one, on the line between the two: the rule
of the comparator. So what is left has the path that they are those of, whichever it is, and paths that these few
elements don't distinguish from it.

The residual of the weights against each path is measured in units of rounding. A path is replayed from the values
after each of its links, also as if it had been merged step by step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Final

import torch

from registry.tensors.comparison.fingerprint import BaseSample, SampledValues
from registry.tensors.comparison.roundings import SHORT, SUM_ERROR, Way, ways
from registry.tensors.comparison.sample import least_dtype
from registry.tensors.comparison.verdict import lies_at_one, surely_at_one
from registry.tensors.comparison.weighted_sums import Weighted, WeightedSums

_COARSEST: Final = 2.0**-7  # of the dtypes whose roundings are replayed


@dataclass(frozen=True)
class Scale:
    """The weights, and what differences from them are measured in."""

    values: torch.Tensor  # 0 where missing
    sizes: torch.Tensor  # of which roundings are relative
    weights: torch.Tensor  # 1 over the unit of each; 0 where missing
    kept: dict[torch.dtype, torch.Tensor]  # the elements that came through each dtype
    steps: tuple[torch.dtype, ...]  # in which they may have been merged step by step
    sample: BaseSample
    elements: int

    @classmethod
    def of(cls, found: SampledValues, base: SampledValues, sample: BaseSample) -> Scale:
        there = ~found.values.isnan()
        eps = torch.zeros(sample.elements, dtype=torch.float64)
        kept: dict[torch.dtype, torch.Tensor] = {}
        steps: dict[torch.dtype, None] = {}
        for chosen, stored, own in zip(sample.tensors, found.dtypes, base.dtypes, strict=True):
            if stored is None or own is None:
                continue
            part = sample.slices[chosen.tensor]
            least = least_dtype(found.values[part], stored)
            kept.setdefault(least, torch.zeros(sample.elements, dtype=torch.bool))[part] = True
            steps |= dict.fromkeys(dtype for dtype in (own, stored, least) if dtype in SHORT)
            eps[part] = max(torch.finfo(least).eps, SUM_ERROR)
        size = torch.maximum(found.values.nan_to_num(0.0).abs(), base.values.nan_to_num(0.0).abs())
        unit = (size * eps).clamp(min=torch.finfo(torch.float16).tiny * 2.0**-11)
        values = torch.where(there, found.values, 0.0).to(torch.float32)
        # missing values have no residual
        weights = torch.where(there, 1 / unit, 0.0).to(torch.float32)
        return cls(values, size.to(torch.float32), weights, kept, tuple(steps), sample, int(there.sum()))

    def residuals(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Residuals against paths, a row each, in units, after the rendering that explains most of each tensor."""
        best, least = None, torch.zeros(0)
        for rendering in self._renderings(states):
            rest = (self.values - rendering).mul_(self.weights).nan_to_num_(0.0, 1e9, -1e9)
            squares = self.sample.summed(rest.square())
            if best is None:
                best, least = rest, squares
                continue
            nearer = squares < least
            least = torch.where(nearer, squares, least)
            best = torch.where(nearer[:, self.sample.owners], rest, best)
        assert best is not None
        return best

    def bounds(self, states: Sequence[torch.Tensor]) -> tuple[list[float], list[float]]:
        """Residuals against paths, a row each, in units: against their values, and at least against each rendering.

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
        """Differences, in units; 0 where values are missing."""
        return (values * self.weights).nan_to_num(0.0, 0.0, 0.0)

    def beside(self, base: SampledValues) -> torch.Tensor:
        """The difference of the weights from the base model, in units."""
        return self.in_units(self.values - base.values.to(torch.float32))

    def distances(self, tips: torch.Tensor) -> list[float]:
        """How far the weights are from paths, a row each, as an estimate of |weights - path| / |path| over all."""
        values = torch.where(self.weights > 0, tips, 0.0).nan_to_num_(0.0)
        of_tensors = self.sample.stands_for.sqrt()
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
    """Values as they are after a rounding; those stored in float32 are rounded once."""
    return values.to(dtype).to(values.dtype)


LISTED: Final = 5
"""How many of the nearest candidates are reported if none is left."""


_KEPT: Final = 2.0**-23  # fingerprints are rounded to float32, before and after a link
_SUMS: Final = 2.0**-30  # sums in float64, of factors that may cancel
_AT_ONCE: Final = 1 << 18  # elements of paths that are looked at together, as many as a processor's cache holds
_WAITING: Final = 1 << 24  # elements of paths that wait for the nearest one
_MANY: Final = 1 << 7  # elements with which four standard errors are within what `surely_at_one` leaves


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


def narrow(chains: Iterable[Chain], found: SampledValues, base: SampledValues, sample: BaseSample) -> Narrowed:
    """Strike out all paths that some weights are clearly not those of.

    Args:
        chains: the paths, on one base model.
        found: the weights, by the names of the base's files.
        base: the base's.
        sample: which elements they are.
    """
    scale = Scale.of(found, base, sample)
    search, distances, sums = _Search(scale), list[Near](), WeightedSums(scale.beside(base))
    for batch in _batches(enumerate(chains)):
        tips, names = batch.states[-1], [chain.name for _, chain in batch.chains]
        if len(batch.states) > 1:
            sums.add(names, scale.in_units(tips - batch.states[-2]))
        distances += map(Near, names, scale.distances(tips))
        search.add(batch)
    search.decide()
    nearest = sorted(distances, key=lambda one: one.distance)[:LISTED]
    return Narrowed(search.left, tuple(nearest), sums.found())


def narrow_links(chains: Iterable[Chain], found: SampledValues) -> Narrowed:
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


@dataclass(frozen=True)
class _Batch:
    """Paths of equally many links, numbered as they came."""

    chains: Sequence[tuple[int, Chain]]

    @cached_property
    def states(self) -> list[torch.Tensor]:
        """What they make, after each link; a row each."""
        return [torch.stack(after) for after in zip(*(chain.states for _, chain in self.chains), strict=True)]


def _batches(chains: Iterable[tuple[int, Chain]]) -> Iterator[_Batch]:
    waiting: dict[int, list[tuple[int, Chain]]] = {}
    for numbered in chains:
        states = numbered[1].states
        alike = waiting.setdefault(len(states), [])
        alike.append(numbered)
        if len(alike) * states[0].numel() >= _AT_ONCE:
            yield _Batch(waiting.pop(len(states)))
    yield from map(_Batch, waiting.values())


@dataclass(frozen=True)
class _Rest:
    """The residual of the weights against one path, in units."""

    name: str
    number: int
    residual: torch.Tensor
    square: float

    def strikes_out(self, other: _Rest, elements: int) -> bool:
        return lies_at_one(self.square, float(self.residual @ other.residual), other.square, elements)


class _Search:
    """Strikes paths out: by the least residual against the path itself, else by the residuals against its renderings.

    The nearest path comes first, since it strikes out most of the others without a look at their renderings.
    """

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._waiting: list[tuple[float, float, int, Chain]] = []  # what is left, and what is so at least
        self._left: list[_Rest] = []
        self._best: _Rest | None = None

    def add(self, batch: _Batch) -> None:
        """Take in more paths."""
        squares, least = self._scale.bounds(batch.states)
        for square, bound, (number, chain) in zip(squares, least, batch.chains, strict=True):
            if self._may_be(bound):
                self._waiting.append((square, bound, number, chain))
        if len(self._waiting) * self._scale.values.numel() >= _WAITING:
            self.decide()

    def decide(self) -> None:
        """Strike out what was taken in."""
        self._waiting.sort(key=lambda one: one[0])
        self._render([one[2:] for one in self._waiting[:1]])
        self._render([one[2:] for one in self._waiting[1:] if self._may_be(one[1])])
        self._waiting = []

    @property
    def left(self) -> tuple[str, ...]:
        """The paths that are not struck out, nearest first."""
        best = self._best
        if best is None:
            return ()
        left = [one for one in self._left if one is best or not best.strikes_out(one, self._scale.elements)]
        return tuple(one.name for one in sorted(left, key=lambda one: (one.square, one.number)))

    def _may_be(self, bound: float) -> bool:
        best = self._best
        return best is None or self._scale.elements < _MANY or not surely_at_one(best.square, bound)

    def _render(self, chains: Sequence[tuple[int, Chain]]) -> None:
        for batch in _batches(chains):
            residuals = self._scale.residuals(batch.states)
            squares: list[float] = residuals.square().sum(dim=1).tolist()
            for at in sorted(range(len(squares)), key=squares.__getitem__):
                number, chain = batch.chains[at]
                one = _Rest(chain.name, number, residuals[at], squares[at])
                if self._best is None or one.square < self._best.square:
                    self._best = replace(one, residual=one.residual.clone())
                    self._left.append(self._best)
                elif not self._best.strikes_out(one, self._scale.elements):
                    self._left.append(replace(one, residual=one.residual.clone()))
