"""Answers as tables: data frames of pandas, which is not needed for anything else, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from registry.errors import UnavailableError

if TYPE_CHECKING:
    import pandas

    from registry.schemas.team import Event
    from registry.schemas.tree import BaseSummary, RevisionSummary

COLUMNS = (
    "reference", "path", "number", "created_at", "author", "message", "tags", "parent", "parent_known_by", "rank",
    "parameters", "size", "behind", "retracted", "digest",
)  # fmt: skip
"""The columns of every frame of revisions, in this order; ``metric.NAME`` and the like follow, by name."""

_BASE_COLUMNS = (
    "name", "architecture", "parameters", "tensors", "size", "adapters", "created_at", "source", "digest",
)  # fmt: skip
_EVENT_COLUMNS = ("at", "action", "subject", "actor", "token", "source")


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


def bases_frame(bases: Sequence[BaseSummary]) -> pandas.DataFrame:
    """A row for each base model; where their figures were asked for, ``figures.NAME``."""
    rows = []
    for one in bases:
        figures = {} if one.figures is None else one.figures.model_dump()
        rows.append(_fields(one, _BASE_COLUMNS) | {f"figures.{name}": value for name, value in figures.items()})
    return frame(rows, list(dict.fromkeys([*_BASE_COLUMNS, *(name for row in rows for name in row)])))


def events_frame(events: Sequence[Event]) -> pandas.DataFrame:
    """A row for each event; what its detail says is in ``detail.NAME``."""
    rows = [
        _fields(one, _EVENT_COLUMNS) | {f"detail.{name}": value for name, value in one.detail.items()} for one in events
    ]
    return frame(rows, [*_EVENT_COLUMNS, *_prefixed("detail", (one.detail for one in events))])


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
