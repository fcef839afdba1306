"""Which of many paths some weights may be those of, by the elements that stand for the base alone.

A candidate is struck out by another one if the weights clearly lie at that one, on the line between the two: the rule
of the comparator. So what is left has the path that they are those of, whichever it is, and paths that these few
elements don't tell from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import torch

from registry.tensors.comparison.between import lies_at_one, surely_at_one
from registry.tensors.comparison.scale import Scale
from registry.tensors.comparison.spots import Sampled, Spots
from registry.tensors.comparison.weighted import Weighted, WeightedSums

LISTED: Final = 5
"""The nearest candidates, which are told where none is left."""


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


def narrow(chains: Iterable[Chain], found: Sampled, base: Sampled, spots: Spots) -> Narrowed:
    """Strike out all paths that some weights are clearly not those of.

    Args:
        chains: the paths, on one base model.
        found: the weights, by the names of the base's files.
        base: the base's.
        spots: which elements they are.
    """
    scale = Scale.of(found, base, spots)
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
    """What is left of the weights beside one path, in units."""

    name: str
    number: int
    residual: torch.Tensor
    square: float

    def strikes_out(self, other: _Rest, elements: int) -> bool:
        return lies_at_one(self.square, float(self.residual @ other.residual), other.square, elements)


class _Search:
    """Strikes paths out: by what is at least left beside the path itself, else by what is left beside its renderings.

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
