"""Heat maps: a value for each row and column, as shades of one hue, or of two where values have a sign."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from registry.plots.drawing import SHADES, Drawing, Sheet, Table

_CELL: Final = 20
_LETTER: Final = 7  # width of a letter of a label
_ABOVE: Final = 46  # the title and the labels of columns
_LEGEND: Final = 44


@dataclass(frozen=True)
class Scale:
    """Which shade stands for a value, by the classes of ``style.css``.

    Args:
        shades: from the lowest value to the highest, of which each has an equal part.
        lowest, highest: values beyond them have the first and the last shade.
    """

    shades: Sequence[str]
    lowest: float
    highest: float

    def shade(self, value: float) -> str:
        """That of a value."""
        if self.highest <= self.lowest:
            return self.shades[0]
        place = (value - self.lowest) / (self.highest - self.lowest)
        return self.shades[max(0, min(len(self.shades) - 1, int(place * len(self.shades))))]


def from_zero(values: Iterable[float]) -> Scale:
    """Shades of one hue, from 0 to the largest of some values."""
    return Scale([f"plot-shade-{n}" for n in range(SHADES)], 0.0, max(values, default=0.0))


def around_zero(values: Iterable[float], ends: Sequence[float]) -> Scale:
    """Two hues that meet in 0, as far as the first of the ends that no value of these exceeds."""
    most = max((abs(value) for value in values), default=0.0)
    end = next((one for one in ends if most <= one), ends[-1])
    below, above = ([f"plot-{name}-{n}" for n in range(1, 5)] for name in ("below", "above"))
    return Scale([*reversed(below), "plot-middle", *above], -end, end)


@dataclass(frozen=True)
class HeatMap(Drawing):
    """What is drawn.

    Args:
        title: a line above it.
        about: a sentence for people who don't see it.
        rows, columns: labels, from the top and from the left.
        across: what the columns are, such as ``layer``.
        unit: what the values are, next to the legend.
        values: by row and column; missing ones are left blank.
        scale: the shades of the values.
        word: a value in words.
    """

    template: ClassVar[str] = "heat_map.svg"

    title: str
    about: str
    rows: Sequence[str]
    columns: Sequence[str]
    across: str
    unit: str
    values: Mapping[tuple[str, str], float]
    scale: Scale
    word: Callable[[float], str]

    def table(self) -> Table:
        """A row for each of the map's, by the names of its columns."""
        rows = [
            [row, *(self.word(self.values[row, one]) if (row, one) in self.values else "–" for one in self.columns)]
            for row in self.rows
        ]
        return Table([self.across, *self.columns], rows)

    def sheet(self) -> Sheet:
        """Cells, the labels around them and the legend below."""
        left = 16 + _LETTER * max((len(row) for row in self.rows), default=0)
        scale = self.scale
        legend = 14 * len(scale.shades) + _LETTER * (len(self.unit) + 12)
        width = 16 + left + max(_CELL * len(self.columns), legend)
        every = 1 if len(self.columns) <= 12 else 4 if len(self.columns) <= 48 else 8
        cells = [
            {
                "x": left + _CELL * self.columns.index(column),
                "y": _ABOVE + _CELL * self.rows.index(row),
                "shade": scale.shade(value),
                "told": f"{row}, {self.across} {column}: {self.word(value)}",
            }
            for (row, column), value in self.values.items()
        ]
        values = {
            "left": left,
            "above": _ABOVE,
            "cell": _CELL,
            "labelled": [(n, name) for n, name in enumerate(self.columns) if n % every == 0],
            "cells": cells,
            "lowest": self.word(scale.lowest) if scale.lowest else "0",
            "highest": self.word(scale.highest),
            "legend": _ABOVE + _CELL * len(self.rows) + 16,
        }
        return Sheet(width, _ABOVE + _CELL * len(self.rows) + _LEGEND, values)
