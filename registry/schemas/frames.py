"""Answers as tables: described once, for terminals, notebooks, pages, data frames and CSV.

Pandas is needed for data frames alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, TypeVar

from registry.errors import UnavailableError
from registry.figures import (
    BEHIND,
    GONE,
    QUIET,
    REFERENCE,
    TAG,
    Cell,
    Span,
    clean,
    counted,
    items,
    phrase,
    quiet,
    words,
)

if TYPE_CHECKING:
    import pandas

Item = TypeVar("Item")
Style = Literal["", "reference", "tag", "quiet", "behind", "gone"]
"""How a cell looks, by what it means; pages link a reference."""

_STYLES: Final = {
    "": "", "reference": REFERENCE, "tag": TAG, "quiet": QUIET, "behind": BEHIND, "gone": GONE,
}  # fmt: skip
_MOST: Final = 500  # rows: a notebook keeps what it shows


@dataclass(frozen=True)
class Block:
    """A part of an answer: rows of cells in columns, the last of which is what follows them in the rest of the line.

    Args:
        title: above it; empty: it stands apart from what is above; None: it goes on with it.
        rows: their cells. A text in a column is never broken.
        header: a word for each cell of a row; empty: no header.
        right: the right-aligned columns.
        indent: of all lines.
        least: widths that the first columns have at least.
        noun: what a row is called.
    """

    title: str | None
    rows: Sequence[Sequence[Cell]]
    header: Sequence[str] = ()
    right: Sequence[int] = ()
    indent: int = 2
    least: Sequence[int] = ()
    noun: str = "row"


def pairs(title: str | None, rows: Iterable[tuple[str, Cell]], *, indent: int = 2) -> Block:
    """Names and values, one pair below another; pairs without a value are omitted."""
    return Block(title, [(Span(name, QUIET), value) for name, value in rows if items(value)], indent=indent)


def note(text: str, *, indent: int = 2) -> Block:
    """A line that says more of what is above it."""
    return Block(None, [(Span(text, QUIET), None)], indent=indent)


def blocks_html(blocks: Iterable[Block]) -> str:
    """A table of HTML for each block that has rows."""
    return "".join(_block_html(one) for one in blocks if one.rows)


def _block_html(block: Block) -> str:
    rows = [[_text(cell) for cell in row] for row in block.rows]
    columns = max(len(row) - (not row[-1]) for row in rows)  # without that of what follows, if nothing does
    cut = [row[:columns] for row in rows]
    return html_table(block.header[:columns], cut, block.noun, len(rows), block.title or "")


def _text(cell: Cell) -> str:
    return ", ".join(" ".join(span.text for span in item).rstrip(",") for item in items(cell))


@dataclass(frozen=True)
class Column(Generic[Item]):
    """One thing that the items of an answer say."""

    name: str
    """By which it is chosen: that of a field, if nothing else is said."""
    label: str = ""
    """Above it, where people read."""
    cell: Callable[[Item], str | Sequence[str]] | None = None
    """As people read it: several texts where they stand apart. Default: the text of the field."""
    style: Style | Callable[[Item], Style] = ""
    value: Callable[[Item], object] | None = None
    """As programs read it. Default: the field."""
    said: Callable[[Item], str | Sequence[str]] | None = None
    """At a terminal after the columns, where it has to be said what it is. Default: the cell."""
    before: str = ""
    """A word that is put before it at a terminal."""
    free: bool = False
    """A terminal may break it between words."""
    right: bool = False
    """At the right end of its column."""

    def texts(self, item: Item, *, said: bool = False) -> Sequence[str]:
        """The texts of a cell, or a text instead of them; none if it is empty."""
        if (text := (said and self.said) or self.cell) is None:
            found = getattr(item, self.name)
            return () if found is None else (str(found),)
        words = text(item)
        return (words,) if isinstance(words, str) else words

    def style_of(self, item: Item) -> Style:
        """How the cell of an item looks."""
        return self.style(item) if callable(self.style) else self.style

    def cell_of(self, item: Item) -> Span:
        """The cell of an item in a column."""
        return phrase(" ".join(self.texts(item)), _STYLES[self.style_of(item)])

    def said_of(self, item: Item) -> list[Cell]:
        """What a terminal says after the columns."""
        style = _STYLES[self.style_of(item)]
        texts = (text for text in self.texts(item, said=True) if text)
        return [(quiet(self.before), words(text, style) if self.free else phrase(text, style)) for text in texts]


@dataclass(frozen=True, kw_only=True)
class Described(Generic[Item]):
    """The columns of an answer, and which of them are shown where: by their names, with spaces between them."""

    noun: str
    """What an item is called."""
    columns: tuple[Column[Item], ...]
    screen: str
    """At a terminal: as columns, and after ``|`` one after another in the rest of the line."""
    heads: str = ""
    """What a terminal shows above its columns, with ``|`` between them; perhaps one more, above the rest."""
    table: str = ""
    """In notebooks, and on pages."""
    frame: str = ""
    """In data frames and CSV: fields, if no columns. ``NAME.*`` has a column ``NAME.KEY`` for each key."""

    def chosen(self, names: str) -> list[Column[Item]]:
        """The columns of these names, in the order of the names."""
        by_name = {column.name: column for column in self.columns}
        return [by_name[name] for name in names.split()]

    def block(self, items: Iterable[Item], *, header: bool = True, least: Sequence[int] = ()) -> Block:
        """A row for each item, as a terminal shows it."""
        fixed, _, rest = self.screen.partition("|")
        columns, after = self.chosen(fixed), self.chosen(rest)
        rows: list[Sequence[Cell]] = [
            (*(one.cell_of(item) for one in columns), [said for one in after for said in one.said_of(item)])
            for item in items
        ]
        heads = [head.strip() for head in self.heads.split("|")] if header and self.heads else ()
        right = [place for place, one in enumerate(columns) if one.right]
        return Block(None, rows, heads, right, indent=0, least=least)

    def html(self, items: Sequence[Item]) -> str:
        """A table of HTML, with everything that people wrote escaped."""
        columns = self.chosen(self.table)
        rows = [[", ".join(column.texts(item)) for column in columns] for item in items[:_MOST]]
        return html_table([column.label for column in columns], rows, self.noun, len(items))

    def values(self, items: Iterable[Item]) -> tuple[list[dict[str, object]], list[str]]:
        """A row of values for each item, and the columns that the rows have."""
        read = {column.name: column.value for column in self.columns}
        keys: dict[str, dict[str, None]] = {name: {} for name in self.frame.split()}
        rows = []
        for item in items:
            row: dict[str, object] = {}
            for name in self.frame.split():
                field, _, many = name.partition(".")
                value: Any = (read.get(field) or attrgetter(field))(item)
                if not many:
                    row[name] = value
                elif value is not None:
                    own = {f"{field}.{key}": one for key, one in dict(value).items()}
                    row |= own
                    keys[name] |= dict.fromkeys(own)
                    if isinstance(value, Mapping):  # of a schema they are in its order
                        keys[name] = dict.fromkeys(sorted(keys[name]))
            rows.append(row)
        return rows, [column for name, own in keys.items() for column in (own if "." in name else (name,))]


class Listed(tuple[Item, ...], Generic[Item]):
    """An answer that lists items, as they are described: a tuple that a notebook shows as a table."""

    __slots__ = ()
    described: ClassVar[Described[Any]]

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        return self.described.html(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row for each; raises `UnavailableError` where pandas is not installed."""
        return frame(*self.described.values(self))


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], what: str, count: int, title: str = "") -> str:
    """Rows of a table, as far as a notebook keeps them, of ``count``; all texts are escaped."""
    more = count - len(rows[:_MOST])
    rest = f"<p>and {counted(more, f'more {what}', f'more {what}s')}</p>" if more > 0 else ""
    head = f"<caption>{escape(clean(title))}</caption>" if title else ""
    head += f"<thead>{_html_row('th', header)}</thead>" if header else ""
    return f"<table>{head}<tbody>{''.join(_html_row('td', row) for row in rows[:_MOST])}</tbody></table>{rest}"


def _html_row(cell: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{escape(clean(text))}</{cell}>' for text in texts)}</tr>"


def frame(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> pandas.DataFrame:
    """Rows as a data frame with these columns.

    Raises:
        UnavailableError: ``missing_package``, pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UnavailableError(
            "to_pandas needs pandas, which is not installed: pip install pandas.", code="missing_package"
        ) from error
    return pandas.DataFrame(rows, columns=list(columns))


def csv_of(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Rows as CSV with a header; what is None or missing is empty, and no text is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, columns))
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """A value of a cell: a spreadsheet would run a text that begins like a formula, so it gets a mark before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
