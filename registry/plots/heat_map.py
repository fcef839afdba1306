"""Heat maps: a value for each kind of module and depth, as shades of one hue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from registry.plots.drawing import drawn

SHADES: Final = 8
_CELL: Final = 20
_LETTER: Final = 7  # width of a letter of a label
_TITLE_LETTER: Final = 8
_ABOVE: Final = 46  # the title and the labels of columns
_LEGEND: Final = 44


@dataclass(frozen=True)
class HeatMap:
    """What is drawn.

    Args:
        title: a line above it.
        about: a sentence for people who don't see it.
        rows, columns: labels, from the top and from the left.
        across: what the columns are, such as ``layer``.
        unit: what the values are, beside the legend.
        values: by row and column, 0 or more; what is not there is left blank.
        word: a value in words.
    """

    title: str
    about: str
    rows: Sequence[str]
    columns: Sequence[str]
    across: str
    unit: str
    values: Mapping[tuple[str, str], float]
    word: Callable[[float], str]

    def svg(self) -> str:
        """The map as an SVG document."""
        left = 16 + _LETTER * max((len(row) for row in self.rows), default=0)
        most = max(self.values.values(), default=0.0)
        legend = 14 * SHADES + _LETTER * (len(self.unit) + 12)
        width = 16 + max(left + max(_CELL * len(self.columns), legend), _TITLE_LETTER * len(self.title))
        every = 1 if len(self.columns) <= 12 else 4 if len(self.columns) <= 48 else 8
        cells = [
            {
                "x": left + _CELL * self.columns.index(column),
                "y": _ABOVE + _CELL * self.rows.index(row),
                "shade": min(SHADES - 1, int(SHADES * value / most)) if most else 0,
                "told": f"{row}, {self.across} {column}: {self.word(value)}",
            }
            for (row, column), value in self.values.items()
        ]
        return drawn(
            "heat_map.svg",
            map=self,
            width=width,
            height=_ABOVE + _CELL * len(self.rows) + _LEGEND,
            left=left,
            above=_ABOVE,
            cell=_CELL,
            labelled=[(n, name) for n, name in enumerate(self.columns) if n % every == 0],
            cells=cells,
            shades=range(SHADES),
            most=self.word(most),
            legend=_ABOVE + _CELL * len(self.rows) + 16,
        )
