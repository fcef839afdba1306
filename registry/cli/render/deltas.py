"""Renders deltas beside each other: whether they agree, by kind and depth; and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from registry.cli.render.screen import QUIET, REFERENCE, Line, Row, Span, phrase, table, words
from registry.cli.render.text import percent
from registry.schemas.difference import DELTA_COLUMNS, MATRIX_COLUMNS
from registry.schemas.frames import csv_of

if TYPE_CHECKING:
    from registry.schemas.difference import DeltaFigures, DeltaMatrix, Deltas, OtherDifference

_MOST: Final = 12  # rows of a list of groups or pairs
_WIDEST: Final = 8  # columns of a matrix


def deltas_lines(found: Deltas, width: int | None) -> list[Line]:
    """What is compared; the figures of all modules, of each kind and of each depth; what they leave out."""
    compared: list[Row] = [
        ([Span(side), phrase(f"{one.since}..{one.reference}", REFERENCE), Span(f"norm {norm:.4g}")], [])
        for side, one, norm in (("a", found.a, found.frobenius_a), ("b", found.b, found.frobenius_b))
    ]
    lines = table(compared, width, indent=2)
    groups = [("all", found), *((group.name, group) for group in found.kinds)]
    lines += [(), *_table("", groups, found.undone_of, width)]
    if len(found.depths) > 1:
        by_depth = [(group.name, group) for group in found.depths]
        if len(by_depth) > _MOST:
            by_depth = sorted(by_depth, key=lambda named: -abs(named[1].cosine or 0.0))[:_MOST]
        lines += [(), *_table("layer", by_depth, found.undone_of, width)]
        if len(found.depths) > _MOST:
            lines.append((Span(f"  and {len(found.depths) - _MOST} more with cosines nearer to 0", QUIET),))
    if found.others:
        changes: list[Row] = [([phrase(one.name)], [words(_how(one), QUIET)]) for one in found.others]
        lines += [(), (Span("Not in these figures", "bold"),), *table(changes, width, indent=2)]
    return lines


def _table(title: str, groups: Sequence[tuple[str, DeltaFigures]], of: str, width: int | None) -> list[Line]:
    header = (title, "cosine", "energy", f"{of} undone", "inputs", "outputs", "")
    rows: list[Row] = [
        (
            [
                phrase(name),
                Span(_number(one.cosine)),
                Span(_number(one.energy_ratio)),
                *(Span(_percent(share)) for share in (one.undone, one.row_overlap, one.column_overlap)),
            ],
            [],
        )
        for name, one in groups
    ]
    return table(rows, width, header=header, right=range(1, len(header) - 1), indent=2)


def _how(one: OtherDifference) -> str:
    return ", ".join(f"{side}: {how}" for side, how in (("a", one.a), ("b", one.b)) if how is not None)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(value)


def modules_csv(found: Deltas) -> str:
    """A line for each module, and for each expert."""
    return csv_of(found.rows(), DELTA_COLUMNS)


def matrix_lines(found: DeltaMatrix, width: int | None) -> list[Line]:
    """The children with their norms, and the cosines of all pairs; of many children those furthest from 0."""
    count = len(found.children)
    square = count <= _WIDEST
    rows: list[Row] = []
    for at, child in enumerate(found.children):
        cosines = [Span(_short(value)) for value in found.cosine[at]] if square else []
        rows.append(
            ([Span(str(at + 1)), phrase(child.reference, REFERENCE), Span(f"{child.frobenius:.4g}"), *cosines], [])
        )
    header = ("", "child", "norm", *(map(str, range(1, count + 1)) if square else ()), "")
    lines = table(rows, width, header=header, right=(0, *range(2, len(header) - 1)))
    pairs = sorted(
        ((value, i, j) for i in range(count) for j in range(i) if (value := found.cosine[i][j]) is not None),
        key=lambda pair: (-abs(pair[0]), pair[2], pair[1]),
    )
    if square and pairs:
        lines.append((Span("cosines: 1 is the same direction, 0 none in common, -1 the opposite one", QUIET),))
    if not square:
        furthest: list[Row] = [
            ([Span(str(j + 1)), Span(str(i + 1)), Span(_number(value)), Span(_number(found.energy_ratio[i][j]))], [])
            for value, i, j in pairs[:_MOST]
        ]
        lines += [(), *table(furthest, width, header=("a", "b", "cosine", "energy", ""), right=(0, 1, 2, 3), indent=2)]
        if len(pairs) > _MOST:
            lines.append((Span(f"  and {len(pairs) - _MOST} more pairs with cosines nearer to 0", QUIET),))
    others: list[Row] = [
        ([phrase(child.reference), phrase(one.name)], [words(one.how, QUIET)])
        for child in found.children
        for one in child.others
    ]
    if others:
        lines += [(), (Span("Not in these figures", "bold"),), *table(others, width, indent=2)]
    return lines


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def matrix_csv(found: DeltaMatrix) -> str:
    """A line for each pair."""
    return csv_of(found.rows(), MATRIX_COLUMNS)
