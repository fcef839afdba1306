"""Renders dense statistics: a row for each weight, and all of them; as CSV."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.cli.render.screen import QUIET, Line, Row, Span, phrase, table, words
from registry.cli.render.text import counted, percent
from registry.schemas.frames import csv_of
from registry.schemas.statistics import DENSE_COLUMNS

if TYPE_CHECKING:
    from registry.schemas.statistics import DenseMatrix, DenseStatistics


def dense_lines(found: DenseStatistics, width: int | None) -> list[Line]:
    """A row for each weight, then what they are together, and what there is no change of."""
    rows = [_row(one) for one in found.matrices]
    header = ("weight", "norm", "of base", "95 %", "m / |W + D|", "intruders", "")
    lines = table(rows, width, header=header, right=(1, 2, 3, 5)) if rows else []
    share = "" if found.relative_frobenius is None else f", {percent(found.relative_frobenius)} of the base"
    together = f"together: norm {found.frobenius:.4g}{share}, {counted(found.intruders, 'intruder dimension')}"
    lines += [(), (Span(together),)] if rows else []
    about = f"Intruders: of the first {found.vectors} left singular vectors, those below {found.threshold:g} by cosine."
    lines += [(Span(about, QUIET),)] if rows else []
    if found.missing:
        missing = [([phrase(name)], [words("the base model lacks it", QUIET)]) for name in found.missing]
        lines += [(), (Span("Not in these figures", "bold"),), *table(missing, width, indent=2)]
    return lines


def _row(one: DenseMatrix) -> Row:
    name = one.module if one.expert is None else f"{one.module}[{one.expert}]"
    share = "-" if one.relative_frobenius is None else percent(one.relative_frobenius)
    ratios = ", ".join(f"{link.least:.3g} to {link.most:.3g}" for link in one.magnitudes) or "-"
    intruders = str(one.intruders) if one.cosines else "-"
    return [phrase(name), *map(Span, [f"{one.frobenius:.4g}", share, str(one.rank95), ratios, intruders])], []


def csv_text(found: DenseStatistics) -> str:
    """A line for each weight; what is not known is empty."""
    return csv_of(found.rows(), DENSE_COLUMNS)
