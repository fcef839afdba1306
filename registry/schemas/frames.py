"""Answers as data frames of pandas, which is not needed for anything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from registry.errors import UnavailableError

if TYPE_CHECKING:
    import pandas

    from registry.schemas.tree import RevisionSummary

COLUMNS = (
    "reference", "path", "number", "created_at", "author", "message", "tags", "parent", "parent_known_by", "rank",
    "parameters", "size", "behind", "retracted", "digest",
)  # fmt: skip
"""The columns that every frame has, in this order; ``metric.NAME`` and the like follow, by name."""


def revisions_frame(revisions: Sequence[RevisionSummary]) -> pandas.DataFrame:
    """A row for each revision, in the order given.

    Sizes are bytes, times are UTC, tags are tuples; a metric or annotation that a revision lacks is missing there.

    Raises:
        UnavailableError: ``missing_package``, pandas is not installed.
    """
    named = [
        *_prefixed("metric", (one.metrics for one in revisions)),
        *_prefixed("statistic", (one.statistics for one in revisions)),
        *_prefixed("annotation", (one.annotations for one in revisions)),
    ]
    return frame([_row(one) for one in revisions], [*COLUMNS, *named])


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


def _prefixed(prefix: str, named: Iterable[Iterable[str]]) -> list[str]:
    """The names of all columns of a kind; without the prefix, a metric could be called ``rank``."""
    return [f"{prefix}.{name}" for name in sorted({name for names in named for name in names})]


def _row(one: RevisionSummary) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(one, name) for name in COLUMNS}
    row["retracted"] = one.retracted is not None
    row |= {f"metric.{name}": value for name, value in one.metrics.items()}
    row |= {f"statistic.{name}": value for name, value in one.statistics.items()}
    return row | {f"annotation.{name}": value for name, value in one.annotations.items()}
