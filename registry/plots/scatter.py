"""Points in a plane of two axes, with links; where many are in one place, one point that counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import ClassVar, Final, Literal

from registry.plots.charts import BOLD, Axis, Frame, framed
from registry.plots.drawing import HEADING, HEIGHT, SHADES, Drawing, Measure, Sheet, Table, cut, legend

_WIDTH, _HEIGHT = 640, 400
_SIZES: Final = (8, 12, 16, 20, 26, 32, 48, 80)  # of cells in pixels
_MOST: Final = 400  # points and counts
_POINT: Final = 4.5  # radius
_COUNT, _LARGEST = 5.5, 14.0  # radius of counts
_DIGIT: Final = 5.5  # of a count, of 9 px
_NAMES: Final = 60  # points that can still be named
_LABEL: Final = 28  # letters of a name
_TOLD: Final = 6  # names that the text of a count lists


@dataclass(frozen=True)
class Dot:
    """A point.

    Args:
        label: next to it, if it fits.
        href: where it leads.
        told: a line shown when it is pointed at.
        shade: from 0 to 7; one colour without it.
        current: the page is about it: it is seen and never counted.
    """

    x: float
    y: float
    label: str
    href: str
    told: str = ""
    shade: int | None = None
    current: bool = False


@dataclass(frozen=True)
class Reference:
    """A place to compare with, such as full fine-tuning."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Scatter(Drawing):
    """What is drawn.

    Args:
        title: a line above it.
        about: a sentence for people who don't see it.
        x, y: the axes.
        dots: any number; those with values that are not finite have no place, and are left out.
        what: what they are, such as ``adapters``.
        reference: a place to compare with.
        shades: the meaning of those of the points, if they have one.
    """

    template: ClassVar[str] = "scatter.svg"
    role: ClassVar[Literal["img", "group"]] = "group"

    title: str
    about: str
    x: Axis
    y: Axis
    dots: Sequence[Dot]
    what: str = "points"
    reference: Reference | None = None
    shades: Measure | None = None

    def table(self) -> Table:
        """A row for each point that has a place."""
        rows = [
            [dot.label, self.x.word(dot.x), self.y.word(dot.y)]
            for dot in self.dots
            if isfinite(dot.x) and isfinite(dot.y)
        ]
        return Table([self.what, self.x.name, self.y.name], rows)

    def sheet(self) -> Sheet:
        """Axes, counts, points and as many names as don't touch anything."""
        dots = [dot for dot in self.dots if isfinite(dot.x) and isfinite(dot.y)]
        places = [(dot.x, dot.y) for dot in dots]
        if self.reference is not None:
            places.append((self.reference.x, self.reference.y))
        entries = legend(None, self.shades, hollow=any(dot.shade is None for dot in dots))
        frame = framed(self.x, self.y, places, _WIDTH, _HEIGHT, above=12 + (HEIGHT if entries else 0))
        single, cells = self._gathered([_Seen(dot, frame.x.at(dot.x), frame.y.at(dot.y)) for dot in dots], frame)
        taken = [_Box.around(one.x, one.y, _POINT) for one in single]
        taken += [_Box.around(cell.x, cell.y, cell.radius) for cell in cells]
        reference = None
        if self.reference is not None:
            x, y = frame.x.at(self.reference.x), frame.y.at(self.reference.y)
            reference = _Name.beside(self.reference, x, y, left=x > (frame.x.start + frame.x.end) / 2)
            taken += [_Box.around(x, y, _POINT + 2), reference.box]
        values = {
            "frame": frame,
            "single": single,
            "radius": _POINT,
            "cells": cells,
            "reference": reference,
            "names": _names(single, taken, frame),
            "legend": entries,
            "legend_y": HEADING + HEIGHT // 2,
        }
        return Sheet(max([frame.width, *(entry.end for entry in entries)]), frame.height, values)

    def _gathered(self, seen: Sequence[_Seen], frame: Frame) -> tuple[list[_Seen], list[_Cell]]:
        """Points that stand alone, and counts of those that would overlap, in the smallest cells of few enough."""
        current = [one for one in seen if one.dot.current]
        groups: dict[tuple[int, int], list[_Seen]] = {}
        size = 0
        for size in _SIZES:
            groups = {}
            for one in seen:
                if not one.dot.current:
                    place = int(one.x - frame.x.start) // size, int(one.y - frame.y.end) // size
                    groups.setdefault(place, []).append(one)
            if len(groups) <= _MOST:
                break
        most = max(map(len, groups.values()), default=1)
        largest = max(_COUNT + 1, min(_LARGEST, 0.56 * size))
        cells = [
            _Cell(
                x=sum(one.x for one in group) / len(group),
                y=sum(one.y for one in group) / len(group),
                radius=_COUNT + (largest - _COUNT) * sqrt(len(group) / most),
                count=len(group),
                told=f"{len(group):,} {self.what}: {_listed([one.dot.label for one in group])}",
            )
            for group in groups.values()
            if len(group) > 1
        ]
        return [*(group[0] for group in groups.values() if len(group) == 1), *current], cells


@dataclass(frozen=True)
class _Seen:
    """A point in its place."""

    dot: Dot
    x: float
    y: float

    @property
    def look(self) -> str:
        """The class of its shade."""
        return "plot-hollow" if self.dot.shade is None else f"plot-shade-{max(0, min(SHADES - 1, self.dot.shade))}"


@dataclass(frozen=True)
class _Cell:
    """Several points that would overlap."""

    x: float
    y: float
    radius: float
    count: int
    told: str

    @property
    def text(self) -> str:
        """The count, if it fits."""
        text = str(self.count)
        return text if _DIGIT * len(text) + 3 <= 2 * self.radius else ""


def _listed(labels: Sequence[str]) -> str:
    told = ", ".join(cut(label, _LABEL) for label in labels[:_TOLD])
    return told if len(labels) <= _TOLD else f"{told} and {len(labels) - _TOLD:,} more"


@dataclass(frozen=True)
class _Box:
    """What is covered by a point or a name."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float, radius: float) -> _Box:
        """The box of a point."""
        return cls(x - radius, y - radius, x + radius, y + radius)

    def touches(self, other: _Box) -> bool:
        """Whether both cover some place."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


@dataclass(frozen=True)
class _Name:
    """A name next to a point."""

    of: Dot | Reference
    text: str
    x: float
    y: float
    anchor: Literal["start", "end"]
    box: _Box

    @classmethod
    def beside(cls, of: Dot | Reference, x: float, y: float, *, left: bool) -> _Name:
        """At the left of a point, or at its right."""
        text = cut(of.label, _LABEL)
        width = BOLD * len(text)
        if left:
            return cls(of, text, x - 11, y + 4, "end", _Box(x - 11 - width, y - 7, x - 11, y + 7))
        return cls(of, text, x + 11, y + 4, "start", _Box(x + 11, y - 7, x + 11 + width, y + 7))


def _names(single: Sequence[_Seen], taken: Sequence[_Box], frame: Frame) -> list[_Name]:
    """The names of current points, and those of others that cover nothing, if the points are few."""
    names: list[_Name] = []
    boxes = list(taken)
    for one in sorted(single, key=lambda one: not one.dot.current):
        if one.dot.current or len(single) <= _NAMES:
            sides = [_Name.beside(one.dot, one.x, one.y, left=left) for left in (False, True)]
            inside = [name for name in sides if name.box.left >= frame.x.start and name.box.right <= frame.width]
            free = [name for name in inside if not any(name.box.touches(box) for box in boxes)]
            if one.dot.current:
                free = [*free, *inside, *sides]
            names += free[:1]
            boxes += [name.box for name in free[:1]]
    return names
