"""Lines: a small one beside a figure, and a chart with axes and marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, isfinite, nan
from typing import ClassVar, Final

from registry.figures import number
from registry.plots.axes import BOLD, Axis, framed, laid
from registry.plots.drawing import HEADING, Drawing, Sheet, plain

_WIDTH, _HEIGHT = 520, 220
_SPARK_WIDTH, _SPARK_HEIGHT = 120, 24
_LANE: Final = 15  # a row of names above a chart
_DOTS: Final = 40  # points that are seen as dots
_TELLING: Final = 200  # points that tell something


@dataclass(frozen=True)
class Point:
    """A value, or a gap where it is not known, and what is told of it."""

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
        """The line, its points, and the last value beside it."""
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

    def sheet(self) -> Sheet:
        """The line with its axes, and the marks with their names in as many rows as they need."""
        known = _known(self.points)
        marks = sorted(self.marks, key=lambda mark: mark.x)
        places = [*((one.x, value) for one, value in known), *((mark.x, nan) for mark in marks)]
        bare = framed(self.x, self.y, places, _WIDTH, _HEIGHT)
        at = [bare.x.at(mark.x) for mark in marks]
        ends = [x + 8 + BOLD * len(mark.name) for x, mark in zip(at, marks, strict=True)]
        lanes = _lanes(at, ends)
        frame = framed(self.x, self.y, places, _WIDTH, _HEIGHT, above=12 + _LANE * (1 + max(lanes, default=-1)))
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
