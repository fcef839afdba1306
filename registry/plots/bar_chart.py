"""Bars: amounts beside each other, each made of parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from registry.figures import number
from registry.plots.axes import BOLD, LETTER
from registry.plots.drawing import HEADING, Drawing, Sheet

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

    def sheet(self) -> Sheet:
        """Bars with their names and totals, and below what colours are, where there are several."""
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
