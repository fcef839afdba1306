"""Sizes and shades of points by a number of what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from registry.plots.drawing import SHADES, Measure


@dataclass(frozen=True)
class Scale:
    """A number of some points, and how far each is from the least to the most of them.

    Args:
        name: what the number is.
        values: by point; of those that have it.
        word: a value in words.
    """

    name: str
    values: Mapping[str, float]
    word: Callable[[float], str]

    def part(self, point: str) -> float | None:
        """From 0 to 1; where all are the same, in the middle."""
        if point not in self.values:
            return None
        least, most = min(self.values.values()), max(self.values.values())
        return (self.values[point] - least) / (most - least) if most > least else 0.5

    def shade(self, point: str) -> int | None:
        """From 0 to 7."""
        part = self.part(point)
        return None if part is None else min(SHADES - 1, int(part * SHADES))

    def told(self, point: str) -> str | None:
        """The value of a point in words."""
        return self.word(self.values[point]) if point in self.values else None

    @property
    def measure(self) -> Measure | None:
        """What a legend says; None where no point has the number."""
        if not self.values:
            return None
        return Measure(self.name, self.word(min(self.values.values())), self.word(max(self.values.values())))
