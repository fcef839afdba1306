"""Charts with axes: bars made of parts, lines with marks, and a small line next to a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log, log10, nan
from typing import ClassVar, Final

from registry.figures import number
from registry.plots.drawing import HEADING, Drawing, Sheet, Table, plain

LETTER: Final = 6.2  # of labels, which are of 11 px
BOLD: Final = 7.7  # of values among them
_STEPS: Final = (1, 2, 5, 10)
_ABOUT: Final = 1e-9  # what is left of the steps of a value


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Args:
        name: below it or next to it.
        word: a value in words.
        low, high: its ends, if not those of the values.
        logarithmic: equal factors are equal lengths. Values that are not above 0 stand at its beginning.
        whole: only whole numbers are written next to it.
    """

    name: str
    word: Callable[[float], str] = number
    low: float | None = None
    high: float | None = None
    logarithmic: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Tick:
    """A value that is written next to an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Laid:
    """An axis with its ends between two places in pixels, and the values next to it."""

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
        """The values next to it."""
        return [Tick(self.at(value), self.axis.word(value)) for value in self.values]


def laid(axis: Axis, known: Iterable[float], start: float, end: float, most: int = 5, *, rounded: bool = False) -> Laid:
    """An axis that has all of these values, with about so many next to it, and such at its ends if it is rounded."""
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
    """Powers of ten, and 2 and 5 times them if they fit."""
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


SERIES: Final = 5  # parts that have a colour of their own: the classes plot-series-0 to plot-series-4
_ROW: Final = 28
_WIDTH: Final = 420
_LEAST: Final = 2  # pixels of what is more than nothing
_BETWEEN: Final = 1


@dataclass(frozen=True)
class Bar:
    """A bar, and its parts from left to right by their names.

    Args:
        name: left of it.
        parts: at least 0 each.
    """

    name: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        """Of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class BarChart(Drawing):
    """Horizontal bars from one line, with their totals at their ends.

    Args:
        title: a line above it.
        about: a sentence for people who don't see it.
        bars: from above.
        word: an amount in words.
    """

    template: ClassVar[str] = "bar_chart.svg"

    title: str
    about: str
    bars: Sequence[Bar]
    word: Callable[[float], str] = number

    def table(self) -> Table:
        """A row for each bar, with its parts and what they make together."""
        names = list(dict.fromkeys(name for bar in self.bars for name in bar.parts))
        rows = [
            [bar.name, *(self.word(bar.parts.get(name, 0.0)) for name in names), self.word(bar.total)]
            for bar in self.bars
        ]
        return Table(["", *names, "together"], rows)

    def sheet(self) -> Sheet:
        """Bars with their names and totals, and a legend below, if they have several colours."""
        left = 16 + LETTER * max((len(bar.name) for bar in self.bars), default=0)
        most = max((bar.total for bar in self.bars), default=0.0)
        names = list(dict.fromkeys(name for bar in self.bars for name in bar.parts))
        totals = [self.word(bar.total) for bar in self.bars]
        right = left + _WIDTH + 8 + BOLD * max(map(len, totals), default=0)
        bottom = HEADING + 4 + _ROW * len(self.bars)
        legend: list[tuple[float, str, str]] = []
        end = left
        for at, name in enumerate(names if len(names) > 1 else ()):
            legend.append((end, name, _series(at)))
            end += 16 + LETTER * len(name) + 18
        rows = []
        for at, bar in enumerate(self.bars):
            x = left
            parts = []
            for name, value in bar.parts.items():
                width = max(_LEAST, _WIDTH * value / most) if value > 0 else 0.0
                told = f"{bar.name}, {name}: {self.word(value)}"
                parts.append((x, width, _series(names.index(name)), told))
                x += width + _BETWEEN if width else 0
            rows.append((HEADING + 4 + _ROW * at, bar.name, parts, x, totals[at]))
        values = {"left": left, "first": HEADING + 4, "rows": rows, "legend": legend, "bottom": bottom}
        return Sheet(max(right, end), bottom + (26 if legend else 6), values)


def _series(at: int) -> str:
    return f"plot-series-{at % SERIES}"


_CHART_WIDTH, _HEIGHT = 520, 220
_SPARK_WIDTH, _SPARK_HEIGHT = 120, 24
_LANE: Final = 15  # a row of names above a chart
_DOTS: Final = 40  # points that are seen as dots
_TELLING: Final = 200  # points that tell something


@dataclass(frozen=True)
class Point:
    """A value, or a gap if it is not known, and the text about it."""

    x: float
    y: float | None
    told: str = ""


@dataclass(frozen=True)
class Sparkline(Drawing):
    """A small line with its last value: a metric over revisions, or along a lineage.

    Args:
        title, about: for people who don't see it; a document has the title above it.
        points: from left to right, a few dozen.
        word: a value in words.
    """

    template: ClassVar[str] = "sparkline.svg"

    title: str
    about: str
    points: Sequence[Point]
    word: Callable[[float], str] = number

    def sheet(self) -> Sheet:
        """The line, its points, and the last value next to it."""
        known = _known(self.points)
        x = laid(Axis(""), [one.x for one in self.points], 6, 6 + _SPARK_WIDTH)
        y = laid(Axis(""), [value for _, value in known], HEADING + _SPARK_HEIGHT - 5, HEADING + 5)
        last = self.word(known[-1][1]) if known else "none"
        values = {
            "line": _line(self.points, x.at, y.at),
            "dots": [(x.at(one.x), y.at(value), one.told or self.word(value)) for one, value in known],
            "last": last,
            "last_x": _SPARK_WIDTH + 16,
            "middle": HEADING + _SPARK_HEIGHT / 2,
        }
        return Sheet(_SPARK_WIDTH + 18 + BOLD * len(last), HEADING + _SPARK_HEIGHT, values)


@dataclass(frozen=True)
class Mark:
    """A value of the axis below that has a name.

    Args:
        own: it is that of what the chart is about, such as its own rank.
    """

    x: float
    name: str
    own: bool = False


@dataclass(frozen=True)
class LineChart(Drawing):
    """A line over an axis.

    Args:
        title: a line above it.
        about: a sentence for people who don't see it.
        x, y: the axes.
        points: from left to right, a few thousand at most; a line ends at a gap.
        marks: vertical lines with their names above.
    """

    template: ClassVar[str] = "line_chart.svg"

    title: str
    about: str
    x: Axis
    y: Axis
    points: Sequence[Point]
    marks: Sequence[Mark] = ()

    def table(self) -> Table:
        """A row for each point; a gap has no value."""
        rows = [[self.x.word(one.x), "–" if one.y is None else self.y.word(one.y)] for one in self.points]
        return Table([self.x.name, self.y.name], rows)

    def sheet(self) -> Sheet:
        """The line with its axes, and the marks with their names in as many rows as they need."""
        known = _known(self.points)
        marks = sorted(self.marks, key=lambda mark: mark.x)
        places = [*((one.x, value) for one, value in known), *((mark.x, nan) for mark in marks)]
        bare = framed(self.x, self.y, places, _CHART_WIDTH, _HEIGHT)
        at = [bare.x.at(mark.x) for mark in marks]
        ends = [x + 8 + BOLD * len(mark.name) for x, mark in zip(at, marks, strict=True)]
        lanes = _lanes(at, ends)
        frame = framed(self.x, self.y, places, _CHART_WIDTH, _HEIGHT, above=12 + _LANE * (1 + max(lanes, default=-1)))
        heights = {one.x: frame.y.at(value) for one, value in known}
        every = ceil(len(known) / _TELLING) or 1
        values = {
            "frame": frame,
            "line": _line(self.points, frame.x.at, frame.y.at),
            "dots": [(frame.x.at(one.x), frame.y.at(value), one.told) for one, value in known[::every]],
            "seen": len(known) <= _DOTS,
            "marks": [
                (mark, x, HEADING + 4 + _LANE * lane, heights.get(mark.x))
                for mark, x, lane in zip(marks, at, lanes, strict=True)
            ],
        }
        return Sheet(max(frame.width, *ends, 0), frame.height, values)


def _lanes(starts: Sequence[float], ends: Sequence[float]) -> list[int]:
    """The row of each name, from above: below those that its line would go through, as it goes down from its name."""
    lanes: list[int] = []
    for start in starts:
        lanes.append(1 + max((lane for lane, end in zip(lanes, ends, strict=False) if end > start), default=-1))
    return lanes


def _known(points: Iterable[Point]) -> list[tuple[Point, float]]:
    """The points that have a value that can be drawn."""
    return [(one, one.y) for one in points if one.y is not None and isfinite(one.y)]


def _line(points: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float]) -> str:
    """A path through points, which begins anew after each gap."""
    path: list[str] = []
    letter = "M"
    for one in points:
        if one.y is None or not isfinite(one.y):
            letter = "M"
        else:
            path.append(f"{letter}{plain(across(one.x))} {plain(up(one.y))}")
            letter = "L"
    return "".join(path)
