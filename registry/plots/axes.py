"""Axes of charts: where values stand, and which values are written beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log, log10
from typing import Final

from registry.figures import number
from registry.plots.drawing import HEADING

LETTER: Final = 6.2  # of labels, which are of 11 px
BOLD: Final = 7.7  # of values among them
_STEPS: Final = (1, 2, 5, 10)
_ABOUT: Final = 1e-9  # what is left of the steps of a value


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Args:
        name: below it or beside it.
        word: a value in words.
        low, high: its ends, if not those of the values.
        logarithmic: equal factors are equal lengths. Values that are not above 0 stand at its beginning.
        whole: only whole numbers are written beside it.
    """

    name: str
    word: Callable[[float], str] = number
    low: float | None = None
    high: float | None = None
    logarithmic: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Tick:
    """A value that is written beside an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Laid:
    """An axis with its ends between two places in pixels, and the values beside it."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float
    values: Sequence[float]

    def at(self, value: float) -> float:
        """Where a value stands: at the nearer end, if it is beyond."""
        if self.axis.logarithmic:  # logarithms of ratios: those of ends that are next to each other may be equal
            share = log(max(value, self.low) / self.low) / log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + max(0.0, min(1.0, share)) * (self.end - self.start)

    @property
    def ticks(self) -> list[Tick]:
        """The values beside it."""
        return [Tick(self.at(value), self.axis.word(value)) for value in self.values]


def laid(axis: Axis, known: Iterable[float], start: float, end: float, most: int = 5, *, rounded: bool = False) -> Laid:
    """An axis that has all of these values, with about so many beside it, and such at its ends if it is rounded."""
    finite = [value for value in known if isfinite(value) and (value > 0 or not axis.logarithmic)]
    low = min(finite, default=1.0) if axis.low is None else axis.low
    high = max(finite, default=1.0) if axis.high is None else axis.high
    if low >= high:
        middle = high if axis.low is None else low  # the end that is given
        less, more = (middle / 2, middle * 2) if axis.logarithmic else (middle - 1, middle + 1)
        low = less if axis.low is None else low
        high = more if axis.high is None or axis.low is not None else high
    if axis.logarithmic:
        return Laid(axis, low, high, start, end, _factors(low, high, most))
    step = _step(high - low, most, whole=axis.whole)
    if rounded:
        low = step * floor(low / step + _ABOUT) if axis.low is None else low
        high = step * ceil(high / step - _ABOUT) if axis.high is None else high
    first, last = ceil(low / step - _ABOUT), floor(high / step + _ABOUT)
    return Laid(axis, low, high, start, end, [round(n * step, 12) for n in range(first, last + 1)])


def _step(length: float, most: int, *, whole: bool) -> float:
    """1, 2 or 5 times a power of ten, of which at most so many make this length."""
    power = 10.0 ** floor(log10(length / most))
    step = next(power * one for one in _STEPS if length / (power * one) <= most * (1 + _ABOUT))
    return max(step, 1.0) if whole else step


def _factors(low: float, high: float, most: int) -> list[float]:
    """Powers of ten, and 2 and 5 times them where there is room."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    every = max(1, ceil(len(powers) / most))
    fine, coarse = (
        [value for power in powers[::every] for one in steps if low <= (value := 10.0**power * one) <= high]
        for steps in (_STEPS[:3], _STEPS[:1])
    )
    return fine if len(fine) <= most else coarse


@dataclass(frozen=True)
class Frame:
    """Two axes around a chart."""

    x: Laid
    y: Laid
    x_ticks: list[Tick]
    y_ticks: list[Tick]

    @property
    def width(self) -> float:
        """Of the drawing."""
        return self.x.end + 20

    @property
    def height(self) -> float:
        """Of the drawing, with what is written below the chart."""
        return self.y.start + 44


def framed(
    x: Axis, y: Axis, points: Iterable[tuple[float, float]], width: float, height: float, above: float = 12
) -> Frame:
    """The frame of a chart of these points, of so many pixels, with room for something above."""
    places = list(points)
    top = HEADING + above
    up = laid(y, [value for _, value in places], top + height, top, rounded=True)
    y_ticks = up.ticks if places else []
    left = 36 + LETTER * max((len(tick.text) for tick in y_ticks), default=0)
    across = laid(x, [value for value, _ in places], left, left + width, most=8)
    return Frame(across, up, across.ticks if places else [], y_ticks)
