"""What the sizes and shades of points stand for, in a line above a drawing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from registry.plots.drawing import SHADES

HEIGHT: Final = 24
POINT: Final = 5.0
LEAST, LARGEST = 3.5, 9.0  # radius of points that have a size
_LETTER: Final = 6.2
_MARGIN: Final = 12.0


@dataclass(frozen=True)
class Measure:
    """What the sizes or the shades of points stand for, and the words at both ends."""

    name: str
    lowest: str
    highest: str


@dataclass(frozen=True)
class Entry:
    """A word, a swatch, or a point where it has a radius."""

    x: float
    width: float
    text: str = ""
    look: str = ""
    radius: float = 0.0

    @property
    def end(self) -> float:
        """Where it ends at the right."""
        return self.x + self.width


def legend(sizes: Measure | None, shades: Measure | None, *, hollow: bool) -> list[Entry]:
    """The name of each measure, marks from least to most, and the words at both ends; and that hollow is none."""
    entries: list[Entry] = []

    def after(space: float) -> float:
        return entries[-1].end + space if entries else _MARGIN

    def word(text: str, space: float) -> None:
        entries.append(Entry(after(space), _LETTER * len(text), text))

    def point(radius: float, space: float) -> None:
        entries.append(Entry(after(space), 2 * radius, look="plot-hollow", radius=radius))

    if shades is not None:
        word(f"{shades.name}: {shades.lowest}", 28)
        first = after(6)
        entries += [Entry(first + 14 * n, 14, look=f"plot-shade-{n}") for n in range(SHADES)]
        word(shades.highest, 6)
        if hollow:
            point(POINT, 18)
            word("none", 6)
    if sizes is not None:
        word(f"{sizes.name}: {sizes.lowest}", 28)
        for radius in (LEAST, (LEAST + LARGEST) / 2, LARGEST):
            point(radius, 6)
        word(sizes.highest, 6)
    return entries
