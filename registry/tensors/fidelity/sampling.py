"""A random sample of runs of rows, in strata, and what it says of all rows: values with 99 % intervals.

The rows of all slots, one slot below the other, are cut into runs of about 64 KiB, which is what it costs to read few
rows anyway. Neighbouring runs are put into strata of equal length, and four of each are drawn. A figure is a ratio of
two sums; its variance is that of a ratio in stratified sampling (Cochran, Sampling Techniques, 1977, 6.11).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

RUN: Final = 64 << 10
"""Bytes of a run, or one row where rows are longer."""
_DRAWN: Final = 4  # of each stratum: two would show how its runs differ, but not well where strata are few
_Z: Final = 2.5758293035489004  # 99 % of a normal variable lie within it
_FEWEST: Final = 3.0  # degrees of freedom down to which `_quantile` is right to a few percent


@dataclass(frozen=True)
class Stratum:
    """Some neighbouring units, by number, and those of them that are drawn."""

    units: range
    drawn: tuple[int, ...]


class Ratio(NamedTuple):
    """A ratio of two sums over all units, and the ends of its 99 % interval."""

    value: float
    low: float
    high: float


def strata(units: int, wanted: int, seed: int) -> list[Stratum]:
    """Strata of so many units, of which ``wanted`` are drawn: all where there are no more."""
    if wanted >= units:
        return [Stratum(range(units), tuple(range(units)))]
    drawn = min(_DRAWN, max(2, wanted))
    count = max(1, wanted // drawn)
    draw = random.Random(seed)  # noqa: S311 - the same sample each time
    ends = [units * number // count for number in range(count + 1)]
    found = []
    for start, stop in pairwise(ends):
        found.append(Stratum(range(start, stop), tuple(sorted(draw.sample(range(start, stop), drawn)))))
    return found


def ratio(sample: Sequence[Stratum], above: Sequence[float], below: Sequence[float]) -> Ratio | None:
    """The ratio of two sums over all units, from the drawn ones.

    Args:
        sample: the strata.
        above: the numerator's part of each drawn unit, stratum by stratum.
        below: the denominator's.

    Returns:
        None where the denominator is 0.
    """
    weights = [len(one.units) / len(one.drawn) for one in sample for _ in one.drawn]
    total = math.fsum(weight * value for weight, value in zip(weights, below, strict=True))
    if not total:
        return None
    value = math.fsum(weight * one for weight, one in zip(weights, above, strict=True)) / total
    variances, freedom, at = [], [], 0
    for one in sample:
        many = len(one.drawn)
        rest = [above[n] - value * below[n] for n in range(at, at + many)]
        at += many
        if many == len(one.units):
            continue
        mean = math.fsum(rest) / many
        spread = math.fsum((each - mean) ** 2 for each in rest) / (many - 1)
        variances.append(len(one.units) ** 2 * (1 - many / len(one.units)) * spread / many / total**2)
        freedom.append(many - 1)
    half = _half_width(variances, freedom)
    return Ratio(value, value - half, value + half)


def _half_width(variances: Sequence[float], freedom: Sequence[int]) -> float:
    """Half of a 99 % interval; the degrees of freedom are Satterthwaite's."""
    summed = math.fsum(variances)
    squares = math.fsum(one * one / many for one, many in zip(variances, freedom, strict=True))
    return _quantile(summed * summed / squares) * math.sqrt(summed) if squares else 0.0


def _quantile(freedom: float) -> float:
    """The 99.5 % quantile of Student's t, by the expansion of Cornish and Fisher."""
    n, z = max(freedom, _FEWEST), _Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3
