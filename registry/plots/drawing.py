"""What all plots share: one document around each, whole with its style or as a part of a page, and its templates.

Jinja2 escapes everything, and characters that XML doesn't have are written as escapes. It is imported when something
is drawn.

What the sizes and shades of points stand for, in a line above a drawing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from registry.figures import clean

if TYPE_CHECKING:
    from jinja2 import Environment


HEADING: Final = 24  # the line of the title, which a page has outside the drawing
_TITLE_LETTER: Final = 8
SHADES: Final = 8  # of one hue, from little to much: the classes plot-shade-0 to plot-shade-7


@dataclass(frozen=True)
class Sheet:
    """How large a drawing is, and what its template shows.

    Args:
        width, height: in pixels, with `HEADING`, above everything, for the title.
        values: what the template gets.
    """

    width: float
    height: float
    values: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The values of a drawing in words, for people who don't see it.

    Args:
        head: a word for each cell of a row.
        rows: their cells, of which the first says what the row is.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Drawing(ABC):
    """A plot: a document of its own, or a part of a page."""

    template: ClassVar[str]
    role: ClassVar[Literal["img", "group"]] = "img"  # an image has no links in it; a group has

    title: str
    about: str

    @abstractmethod
    def sheet(self) -> Sheet:
        """Everything in its place."""

    def table(self) -> Table | None:
        """Its values in words; None: the page has them as a text or as a list."""
        return None

    def svg(self) -> str:
        """An SVG document with its title and its style, in light and in dark."""
        return self._drawn(whole=True)

    def inline(self) -> str:
        """An ``<svg>`` for a page that has the title and `stylesheet`: without styles, scripts and ids."""
        return self._drawn(whole=False)

    def _drawn(self, *, whole: bool) -> str:
        sheet = self.sheet()
        width = max(sheet.width, 16 + _TITLE_LETTER * len(self.title)) if whole else sheet.width
        kind = "plot-" + self.template.removesuffix(".svg").replace("_", "-")
        text = drawn(self.template, plot=self, whole=whole, kind=kind, role=self.role, top=0 if whole else HEADING,
                     width=width, height=sheet.height, **sheet.values)  # fmt: skip
        return text if whole else text.rstrip("\n")


def stylesheet() -> str:
    """The style of all plots as CSS: of classes that begin with ``plot``, and nothing else."""
    return drawn("style.css")


def drawn(template: str, **values: Any) -> str:
    """A template of ``templates`` with these values, as text."""
    return environment_of(__package__, _printable).get_template(template).render(**values)


def plain(value: float) -> str:
    """A length or a place in pixels, to a tenth: ``12.5``, ``12``."""
    return f"{value:.1f}".removesuffix(".0")


def cut(text: str, most: int) -> str:
    """A text without its middle, where it is longer than that."""
    begin = most * 2 // 3
    return text if len(text) <= most else f"{text[:begin]}…{text[len(text) - most + 1 + begin :]}"


def _printable(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not value.isprintable() else value


@cache
def environment_of(package: str, finalize: Callable[[Any], Any] | None = None) -> Environment:
    """The templates of a package: what they write is escaped, and what they don't know is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["px"] = plain
    return made


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
