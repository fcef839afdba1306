"""Which rank each module of a composed adapter keeps: under a cap, within an error, or both.

The error is that of all modules together, ||D - D'||_F / ||D||_F, with D all deltas side by side. Keeping rank k of a
module leaves out the squares of its other singular values, and the squares of all modules add up. So every singular
value is an item that costs one rank of its module and pays its square, whatever else is chosen: an error bound is met
by leaving out the items that pay least for their cost. Cost is counted in elements of the adapter, as these are what
is stored, sent and multiplied by; one rank of a wide module costs more than one of a narrow module.

Leaving out as many elements as possible within a budget of energy is a knapsack, but one with very few distinct costs
(a model has few shapes). Within one cost the best is to leave out the smallest values, so only *how many* of each cost
remains to be found, and the linear relaxation (by energy per element) is never more than one item away. A search over
these counts that drops whatever the relaxation can't lift above the best found is exact; should it meet its limit of
steps, the answer is still within one rank of one module of the optimum, and no single rank can be taken off it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from registry.errors import AccuracyError
from registry.schemas.artifacts import check_ranks

SEARCH_STEPS: Final = 2000
_ROUNDING: Final = 1e-12  # of sums over all singular values of a model


@dataclass(frozen=True)
class ModuleSpectrum:
    """The singular values of one module's delta (diag(c) B A for DoRA), and what a rank of it costs.

    A module of several matrices that must have one rank (experts) has one spectrum for each.
    """

    module: str
    rank: int  # of the composed pair before it is truncated
    cost: int  # elements that one rank takes: (in_features + out_features) for each matrix
    spectra: tuple[tuple[float, ...], ...]  # one for each matrix, largest first, zeros left out
    rest: float = 0.0  # what all of them leave out of the squared Frobenius norm, whatever rank is kept

    @cached_property
    def energies(self) -> tuple[float, ...]:
        """What each further rank adds to the squared Frobenius norm, largest first."""
        return tuple(
            math.fsum(values[k] ** 2 for values in self.spectra if k < len(values)) for k in range(self._length)
        )

    @cached_property
    def tails(self) -> tuple[float, ...]:
        """The energy that is left out at rank k, for k = 0 (the whole delta) to the rank of the delta."""
        tails = [self.rest]
        for energy in reversed(self.energies):
            tails.append(tails[-1] + energy)
        return tuple(reversed(tails))

    @property
    def most(self) -> int:
        """The largest rank that makes sense: that of the delta, and 1 for a zero delta, as a pair has a rank."""
        return max(1, self._length)

    def discarded(self, rank: int) -> float:
        """||D - D'||_F^2 of this module at rank ``rank``."""
        return self.tails[min(rank, self._length)]

    def singular_value(self, index: int) -> float:
        """The largest of its matrices' singular values number ``index`` (from 0); 0 beyond the last."""
        return max((values[index] for values in self.spectra if index < len(values)), default=0.0)

    def largest_left_out(self, rank: int) -> float:
        """||D - D'||_2 of this module at rank ``rank``; where directions are left out that are not known, at most."""
        return math.hypot(self.singular_value(rank), math.sqrt(self.rest)) if self.rest else self.singular_value(rank)

    @property
    def _length(self) -> int:
        return max((len(values) for values in self.spectra), default=0)


def relative_error(modules: Sequence[ModuleSpectrum], ranks: Mapping[str, int]) -> float:
    """||D - D'||_F / ||D||_F over all modules together, with the rank of each by its name; 0 where D is zero."""
    total = math.fsum(module.tails[0] for module in modules)
    left_out = math.fsum(module.discarded(ranks[module.module]) for module in modules)
    return math.sqrt(left_out / total) if total > 0 else 0.0


def capped(modules: Sequence[ModuleSpectrum], rank: int) -> dict[str, int]:
    """The rank of each module under a cap: a delta of a lower rank keeps that."""
    return {module.module: min(rank, module.most) for module in modules}


def enough_rank(modules: Sequence[ModuleSpectrum], error: float) -> int | None:
    """The smallest cap, the same for every module, with which the relative error is at most ``error``.

    None: no rank reaches it whose directions are known.
    """
    low, high = 1, max((module.most for module in modules), default=1)
    if any(module.rest for module in modules) and relative_error(modules, capped(modules, high)) > error:
        return None
    while low < high:
        middle = (low + high) // 2
        if relative_error(modules, capped(modules, middle)) <= error:
            high = middle
        else:
            low = middle + 1
    return low


def choose_ranks(
    modules: Sequence[ModuleSpectrum], *, rank: int | None = None, max_error: float | None = None
) -> dict[str, int]:
    """The rank of each module, by name.

    Args:
        modules: every module of the composed adapter.
        rank: cap for each module; a module whose delta has a lower rank keeps that.
        max_error: bound of the relative error over all modules together; the ranks with the fewest elements are chosen.

    Returns:
        Ranks of at least 1. With neither option, the ranks that lose nothing.

    Raises:
        UsageError: an option is out of its range.
        AccuracyError: the cap can't reach the error; names what can be reached.
    """
    check_ranks(rank, max_error)
    caps = capped(modules, max((module.most for module in modules), default=1) if rank is None else rank)
    if max_error is None:
        return caps
    reached = relative_error(modules, caps)
    if reached > max_error:
        most = max(caps.values()) if rank is None else rank
        enough = enough_rank(modules, max_error)
        more = "" if enough is None else f"--rank {enough} or more, or for "
        raise AccuracyError(
            f"With rank {most} at most in every module the error is {rounded_up(reached)}, more than the requested "
            f"{max_error:g}; ask for {more}--max-error {rounded_up(reached)} or more."
        )
    return _fewest_elements(modules, caps, max_error)


def rounded_up(error: float) -> str:
    """A few digits of an error, never below it and never 1: asking for what is printed works, if it is below 1."""
    for digits in range(3, 17):
        unit = math.floor(math.log10(error)) + 1 - digits
        count = math.ceil(error * 10.0**-unit)
        text = f"{float(f'{count}e{unit}'):.{digits}g}"
        if error <= float(text) and (error >= 1 or float(text) < 1):
            return text
    return repr(error)


@dataclass(frozen=True)
class _Items:
    """The ranks of one cost that may be left out, those with the least energy first."""

    cost: int
    modules: tuple[str, ...]  # of each item
    energy: NDArray[np.float64]  # of each item
    left_out: NDArray[np.float64]  # energy of the first j items, j = 0 to all

    @property
    def saved(self) -> NDArray[np.float64]:
        """Elements saved with the first j items left out."""
        return self.cost * np.arange(len(self.left_out), dtype=np.float64)

    def most_within(self, budget: float) -> int:
        """How many items can be left out within a budget of energy."""
        return max(0, int(np.searchsorted(self.left_out, budget, side="right")) - 1)


def _fewest_elements(modules: Sequence[ModuleSpectrum], caps: Mapping[str, int], max_error: float) -> dict[str, int]:
    """Ranks of at most ``caps``, which are within the bound, with the fewest elements."""
    groups = _by_cost(modules, caps)
    if not groups:
        return dict(caps)

    def without(counts: Sequence[int]) -> dict[str, int]:
        ranks = dict(caps)
        for group, count in zip(groups, counts, strict=True):
            for module in group.modules[:count]:
                ranks[module] -= 1
        return ranks

    allowed = max_error**2 * math.fsum(module.tails[0] for module in modules)
    spent = math.fsum(module.discarded(caps[module.module]) for module in modules)
    search = _Search(groups, lambda counts: relative_error(modules, without(counts)) <= max_error)
    return without(search.best(allowed - spent, _ROUNDING * allowed))


def _by_cost(modules: Sequence[ModuleSpectrum], caps: Mapping[str, int]) -> list[_Items]:
    """Every rank beyond a module's first and within its cap, in groups of one cost, dearest first."""
    found: dict[int, list[tuple[float, int, str]]] = {}
    for module in modules:
        for k in range(1, caps[module.module]):
            # Of equal values the last goes first, so that a module always keeps its leading directions.
            found.setdefault(module.cost, []).append((module.energies[k], -k, module.module))
    groups = []
    for cost in sorted(found, reverse=True):
        items = sorted(found[cost])
        energy = np.array([item[0] for item in items])
        groups.append(_Items(cost, tuple(item[2] for item in items), energy, np.append(0.0, np.cumsum(energy))))
    return groups


class _Relaxation:
    """The most elements that could be saved if items could be left out in part: an upper bound for whole ones."""

    def __init__(self, groups: Sequence[_Items]) -> None:
        cost = np.concatenate([np.full(len(group.energy), float(group.cost)) for group in groups])
        energy = np.concatenate([group.energy for group in groups])
        self.group = np.concatenate([np.full(len(group.energy), number) for number, group in enumerate(groups)])
        self.order = np.argsort(energy / cost, kind="stable")
        self._energy = np.append(energy[self.order], np.inf)
        self._cost = np.append(cost[self.order], 0.0)
        self._left_out = np.append(0.0, np.cumsum(energy[self.order]))
        self._saved = np.append(0.0, np.cumsum(cost[self.order]))

    def whole(self, budget: float) -> NDArray[np.int64]:
        """How many items of each group are left out whole, the one in part not counted."""
        count = max(0, int(np.searchsorted(self._left_out, budget, side="right")) - 1)
        return np.bincount(self.group[self.order[:count]], minlength=int(self.group.max()) + 1)

    def bound(self, budgets: NDArray[np.float64]) -> NDArray[np.float64]:
        """The bound for each budget, none of them negative."""
        count = np.searchsorted(self._left_out, budgets, side="right") - 1
        part: NDArray[np.float64] = (budgets - self._left_out[count]) / self._energy[count]
        bound: NDArray[np.float64] = self._saved[count] + part * self._cost[count]
        return bound


class _Search:
    """How many items of each group to leave out.

    The search's own sums round differently from `relative_error`, which is what counts. So it looks a little beyond its
    budget of energy, and takes nothing that ``fits`` doesn't confirm.
    """

    def __init__(self, groups: Sequence[_Items], fits: Callable[[Sequence[int]], bool]) -> None:
        self._groups = groups
        self._fits = fits
        self._unit = math.gcd(*(group.cost for group in groups))
        self._relaxed = [_Relaxation(groups[number:]) for number in range(len(groups))]
        self._steps = 0
        self._saved = 0.0
        self._best = (0,) * len(groups)

    def best(self, budget: float, margin: float) -> tuple[int, ...]:
        """The counts that save the most elements within a budget of energy that is known up to a margin."""
        self._start(budget - margin)
        self._branch((), 0.0, budget + margin)
        return self._best

    def _start(self, budget: float) -> None:
        """Begin with the relaxation's whole items, and what still fits in addition."""
        counts = [int(count) for count in self._relaxed[0].whole(budget)]
        for number, group in enumerate(self._groups):
            others = math.fsum(
                other.left_out[count]
                for place, (other, count) in enumerate(zip(self._groups, counts, strict=True))
                if place != number
            )
            counts[number] = max(counts[number], group.most_within(budget - others))
        if self._fits(counts):
            self._best = tuple(counts)
            self._saved = float(sum(group.cost * count for group, count in zip(self._groups, counts, strict=True)))

    def _branch(self, counts: tuple[int, ...], saved: float, budget: float) -> None:
        """Try the counts of the next group, the most promising first."""
        self._steps += 1
        group = self._groups[len(counts)]
        most = group.most_within(budget)
        if len(counts) + 1 == len(self._groups):
            self._finish(counts, saved, most)
            return
        left = np.maximum(budget - group.left_out[: most + 1], 0.0)
        bounds = saved + group.saved[: most + 1] + self._relaxed[len(counts) + 1].bound(left)
        bounds = np.floor(bounds * (1 + _ROUNDING) / self._unit) * self._unit  # savings are whole units
        for count in np.argsort(-bounds, kind="stable"):
            if bounds[count] <= self._saved or self._steps >= SEARCH_STEPS:
                return
            self._branch((*counts, int(count)), saved + group.cost * int(count), float(left[count]))

    def _finish(self, counts: tuple[int, ...], saved: float, most: int) -> None:
        """Leave out as many items of the last group as fit, if that is better than the best found."""
        cost = self._groups[-1].cost
        enough = max(0, math.floor((self._saved - saved) / cost) + 1)
        # More items never fit where fewer don't.
        fitting = bisect_left(range(enough, most + 1), True, key=lambda count: not self._fits((*counts, count)))
        if fitting > 0:
            count = enough + fitting - 1
            self._saved, self._best = saved + cost * count, (*counts, count)
