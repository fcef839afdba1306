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
from registry.figures import clean, counted

if TYPE_CHECKING:
    import pandas

    from registry.schemas.tree import RevisionSummary

Item = TypeVar("Item")
Style = Literal["", "reference", "tag", "quiet", "behind", "gone"]
"""How a cell looks, by what it means; pages link a reference."""

_MOST: Final = 500  # rows: a notebook keeps what it shows

COLUMNS = (
    "reference", "path", "number", "created_at", "author", "message", "tags", "parent", "parent_known_by", "rank",
    "parameters", "size", "behind", "retracted", "digest",
)  # fmt: skip
"""The columns of every frame of revisions, in this order; ``metric.NAME`` and the like follow, by name."""


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
    """A word that is put before it there."""
    free: bool = False
    """A terminal may break it between words."""
    right: bool = False
    """At the right end of its column."""

    def texts(self, item: Item, *, said: bool = False) -> Sequence[str]:
        """The texts of a cell, or what is said instead; none where there is nothing to say."""
        if (text := (said and self.said) or self.cell) is None:
            found = getattr(item, self.name)
            return () if found is None else (str(found),)
        words = text(item)
        return (words,) if isinstance(words, str) else words

    def style_of(self, item: Item) -> Style:
        """How the cell of an item looks."""
        return self.style(item) if callable(self.style) else self.style


@dataclass(frozen=True, kw_only=True)
class Described(Generic[Item]):
    """The columns of an answer, and which of them are shown where: by their names, with spaces between them."""

    noun: str
    """What an item is called."""
    columns: tuple[Column[Item], ...]
    screen: str
    """At a terminal: as columns, and after ``|`` one after another in the rest of the line."""
    heads: str
    """What a terminal shows above its columns, with ``|`` between them; perhaps one more, above the rest."""
    table: str = ""
    """In notebooks, and on pages."""
    frame: str = ""
    """In data frames and CSV: fields, if no columns. ``NAME.*`` has a column ``NAME.KEY`` for each key."""

    def chosen(self, names: str) -> list[Column[Item]]:
        """The columns of these names, in the order of the names."""
        by_name = {column.name: column for column in self.columns}
        return [by_name[name] for name in names.split()]

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


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], what: str, count: int) -> str:
    """Rows of a table, as far as a notebook keeps them, of ``count``; all texts are escaped."""
    more = count - len(rows[:_MOST])
    rest = f"<p>and {counted(more, f'more {what}', f'more {what}s')}</p>" if more > 0 else ""
    head = f"<thead>{_html_row('th', header)}</thead>" if header else ""
    return f"<table>{head}<tbody>{''.join(_html_row('td', row) for row in rows[:_MOST])}</tbody></table>{rest}"


def _html_row(cell: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{escape(clean(text))}</{cell}>' for text in texts)}</tr>"


def revisions_frame(revisions: Sequence[RevisionSummary]) -> pandas.DataFrame:
    """A row for each revision, in the order given.

    Sizes are bytes, times are UTC, tags are tuples; a metric or annotation that a revision lacks is missing there.

    Raises:
        UnavailableError: ``missing_package``, pandas is not installed.
    """
    return frame([_row(one) for one in revisions], [*COLUMNS, *_named(revisions)])


def revisions_csv(
    revisions: Sequence[RevisionSummary], more: Mapping[str, Mapping[str, object]], columns: Sequence[str]
) -> str:
    """The same as CSV, with tags as one text and further columns, whose values are by reference."""
    rows = [_row(one) | {"tags": " ".join(one.tags)} | dict(more[one.reference]) for one in revisions]
    return csv_of(rows, [*COLUMNS, *columns, *_named(revisions)])


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


def _named(revisions: Sequence[RevisionSummary]) -> list[str]:
    """The columns that some revisions have by themselves."""
    return [
        *_prefixed("metric", (one.metrics for one in revisions)),
        *_prefixed("statistic", (one.statistics for one in revisions)),
        *_prefixed("annotation", (one.annotations for one in revisions)),
    ]


def _cell(value: object) -> object:
    """A value of a cell: a spreadsheet would run a text that begins like a formula, so it gets a mark before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _prefixed(prefix: str, named: Iterable[Iterable[str]]) -> list[str]:
    """The names of all columns of a kind; without the prefix, a metric could be called ``rank``."""
    return [f"{prefix}.{name}" for name in sorted({name for names in named for name in names})]


def _row(one: RevisionSummary) -> dict[str, object]:
    row = _fields(one, COLUMNS)
    row["retracted"] = one.retracted is not None
    row |= {f"metric.{name}": value for name, value in one.metrics.items()}
    row |= {f"statistic.{name}": value for name, value in one.statistics.items()}
    return row | {f"annotation.{name}": value for name, value in one.annotations.items()}


def _fields(one: object, names: Iterable[str]) -> dict[str, object]:
    return {name: getattr(one, name) for name in names}
