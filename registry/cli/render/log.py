"""Renders the log of an adapter, with metrics in columns to be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from registry.cli.render.lists import copied, remarks
from registry.cli.render.screen import GAP, GONE, QUIET, REFERENCE, Line, Row, Span, phrase, table, words
from registry.cli.render.text import clean, moment, number, size
from registry.schemas.parents import level_of

if TYPE_CHECKING:
    from registry.schemas import DeletedRevision, Log, RevisionSummary

_ABOUT: Final = ("PUBLISHED (UTC)", "RANK", "SIZE", "PARENT", "AUTHOR")
_NONE: Final = Span("-", QUIET)
_REMARKS: Final = 32  # columns that metrics leave to the remarks, where so many are left beside the other cells


@dataclass(frozen=True)
class _Columns:
    """What is in columns beside the number; the rest is among the remarks."""

    about: bool  # when it was published, rank, size, parent, author
    metrics: tuple[str, ...]

    @property
    def header(self) -> tuple[str, ...]:
        return ("REV", *(_ABOUT if self.about else ()), *map(clean, self.metrics))


def log_lines(log: Log, width: int | None) -> list[Line]:
    """Revisions of one adapter, newest first, and deleted ones; the parent is named by the last part of its path.

    Each metric that fits into the width has a column, the most frequent first. In a narrow terminal, metrics go before
    the other columns, because they are there to be compared.
    """
    columns = _fitting(log, width)
    numbered: list[tuple[int, Row]] = [(one.number, _row(one, columns)) for one in log.revisions]
    numbered += [(one.number, _deleted_row(one, columns)) for one in log.deleted]
    rows = [row for _, row in sorted(numbered, key=lambda pair: -pair[0])]
    header = columns.header
    right = {
        at for at, name in enumerate(header) if name in {"RANK", "SIZE"} or at >= len(header) - len(columns.metrics)
    }
    heads = (*header, "REMARKS") if len(header) > 1 else ()
    return [(Span(log.path, REFERENCE),), *table(rows, width, header=heads, right=right)]


def _fitting(log: Log, width: int | None) -> _Columns:
    """The columns that fit, the most frequent metrics first."""
    counts = Counter(name for one in log.revisions for name in one.metrics)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if width is None:
        return _Columns(about=True, metrics=tuple(names))
    plain = _Columns(about=_width(log, _Columns(about=True, metrics=())) <= width, metrics=())
    room = width - _width(log, plain)
    if plain.about and room >= _REMARKS + GAP:
        room -= _REMARKS + GAP
    chosen: list[str] = []
    for name in names:
        room -= GAP + max(len(clean(name)), *(_metric(one, name).cells for one in log.revisions))
        if room < 0:
            break
        chosen.append(name)
    return _Columns(plain.about, tuple(chosen))


def _width(log: Log, columns: _Columns) -> int:
    """Of the aligned cells, on a terminal."""
    rows = [_row(one, columns)[0] for one in log.revisions] + [_deleted_row(one, columns)[0] for one in log.deleted]
    heads = [Span(word) for word in columns.header]
    widths: list[int] = [max(cell.cells for cell in column) for column in zip(heads, *rows, strict=True)]
    return sum(widths) + GAP * (len(widths) - 1)


def _row(revision: RevisionSummary, columns: _Columns) -> Row:
    first = Span(f"@{revision.number}", REFERENCE)
    about = [
        Span(moment(revision.created_at)),
        Span(str(revision.rank or "-")),
        Span(size(revision.size)),
        phrase(revision.parent.rpartition("/")[2]),
        phrase(revision.author),
    ]
    values = [_metric(revision, name) for name in columns.metrics]
    rest = {name: value for name, value in revision.metrics.items() if name not in columns.metrics}
    items = [
        words(f"parent {level_of(revision.parent_known_by)}", QUIET),
        *remarks(revision, rest),
        words(f"from {revision.source}" if revision.source else "", QUIET),
        words(copied(revision.copied_from) if revision.copied_from else "", QUIET),
    ]
    if columns.about:
        return [first, *about, *values], items
    return [first, *values], [*([cell] for cell in about), *items]


def _metric(revision: RevisionSummary, name: str) -> Span:
    return Span(number(revision.metrics[name])) if name in revision.metrics else _NONE


def _deleted_row(gone: DeletedRevision, columns: _Columns) -> Row:
    said = "deleted"
    if gone.deleted_at is not None:
        said += f" {moment(gone.deleted_at)}"
    if gone.deleted_by is not None:
        said += f" by {gone.deleted_by}"
    undo = "" if gone.until is None else f"can be restored until {moment(gone.until)}"
    items = [words(said, GONE), words(undo, QUIET), words((gone.message or "").strip().partition("\n")[0], QUIET)]
    empty: Sequence[Span] = [_NONE] * (len(columns.header) - 1)
    return [Span(f"@{gone.number}", REFERENCE), *empty], items
