"""Renders what differs between two revisions: ``-`` only the first has, ``+`` only the second, ``~`` both have.

Also how their deltas agree, by kind and depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from registry.cli.render.screen import BEHIND, GONE, QUIET, REFERENCE, Line, Row, Span, phrase, table, words
from registry.figures import percent, ranked, short_digest
from registry.schemas.difference import DELTA_COLUMNS, MATRIX_COLUMNS
from registry.schemas.frames import csv_of
from registry.schemas.views import file_text, modules_text, number_text, value_text

if TYPE_CHECKING:
    from registry.schemas import LineageEntry
    from registry.schemas.difference import (
        DeltaFigures,
        DeltaMatrix,
        Deltas,
        Difference,
        OtherDifference,
        ValueDifference,
    )


_MOST_GROUPS: Final = 12  # rows of a list of groups or pairs
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
        if len(by_depth) > _MOST_GROUPS:
            by_depth = sorted(by_depth, key=lambda named: -abs(named[1].cosine or 0.0))[:_MOST_GROUPS]
        lines += [(), *_table("layer", by_depth, found.undone_of, width)]
        if len(found.depths) > _MOST_GROUPS:
            lines.append((Span(f"  and {len(found.depths) - _MOST_GROUPS} more with cosines nearer to 0", QUIET),))
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
            for value, i, j in pairs[:_MOST_GROUPS]
        ]
        lines += [(), *table(furthest, width, header=("a", "b", "cosine", "energy", ""), right=(0, 1, 2, 3), indent=2)]
        if len(pairs) > _MOST_GROUPS:
            lines.append((Span(f"  and {len(pairs) - _MOST_GROUPS} more pairs with cosines nearer to 0", QUIET),))
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


_NEW: Final = "green"
Items = list[list[Span]]


def difference_lines(found: Difference, width: int | None) -> list[Line]:
    """Section by section, without those in which nothing differs; other base models first."""
    lines: list[Line] = [(phrase(found.a.reference, REFERENCE), Span(" -> "), phrase(found.b.reference, REFERENCE))]
    if found.identical:
        return [*lines, (Span("nothing differs"),), *_deltas(found, width)]
    sections: list[tuple[str, list[Row]]] = [
        ("Other base models", [_one_sided(base, at) for at, base in enumerate(found.bases)]),
        ("", [_value(one) for one in found.about]),
        ("Configuration", [_value(one) for one in found.config]),
        ("Targets", [_row(one.name, modules_text(one.a), modules_text(one.b)) for one in found.targets]),
        (
            "Metrics",
            [
                _row(
                    one.name,
                    number_text(one.a),
                    number_text(one.b),
                    "" if one.difference is None else f"({one.difference:+.6g})",
                )
                for one in found.metrics
            ],
        ),
        ("Annotations", [_value(one) for one in found.annotations]),
        ("Files", [_row(one.path, file_text(one.a), file_text(one.b)) for one in found.files]),
        ("Lineage", _lineage(found)),
    ]
    for title, rows in sections:
        if rows:
            lines += [*([(), (Span(title, "bold"),)] if title else []), *table(rows, width, indent=2)]
    return [*lines, *_deltas(found, width)]


def _deltas(found: Difference, width: int | None) -> list[Line]:
    if found.deltas is None:
        return []
    return [(), (Span("Deltas", "bold"),), *deltas_lines(found.deltas, width)]


def _row(name: str, a: str | None, b: str | None, more: str = "") -> Row:
    """A name with its value on both sides, or on the one that has it."""
    if a is None:
        return [Span("+", _NEW), phrase(name)], [words(b or "", _NEW)]
    if b is None:
        return [Span("-", GONE), phrase(name)], [words(a, GONE)]
    return [Span("~", BEHIND), phrase(name)], [[*words(a), Span("->", QUIET), *words(b), *words(more, QUIET)]]


def _value(one: ValueDifference) -> Row:
    name = one.name.replace("_", " ") if one.name == "trained_on" else one.name
    if one.in_a and one.in_b and isinstance(one.a, list | tuple) and isinstance(one.b, list | tuple):
        return [Span("~", BEHIND), phrase(name)], _members(one.a, one.b)
    return _row(
        name, value_text(one.name, one.a) if one.in_a else None, value_text(one.name, one.b) if one.in_b else None
    )


def _members(a: Sequence[object], b: Sequence[object]) -> Items:
    """What one list has and the other lacks."""
    gone = [words(f"- {value_text('', member)}", GONE) for member in a if member not in b]
    new = [words(f"+ {value_text('', member)}", _NEW) for member in b if member not in a]
    return [*gone, *new] or [words("the same in another order", QUIET)]


def _lineage(found: Difference) -> list[Row]:
    lineage = found.lineage
    if not lineage.a and not lineage.b:
        return []
    rows: list[Row] = []
    if lineage.common is not None:
        rows.append(([Span("="), phrase(lineage.common.reference)], [words("the last in common", QUIET)]))
    for at, links in enumerate((lineage.a, lineage.b)):
        rows += [_one_sided(link, at) for link in links]
    return [*rows, *_pinned(lineage.pinned)]


def _one_sided(entry: LineageEntry, side: int) -> Row:
    sign, style = ("-", GONE) if side == 0 else ("+", _NEW)
    rank = "base model" if entry.rank is None else ranked(entry.rank)
    return [Span(sign, style), phrase(entry.reference, style)], [
        words(short_digest(entry.digest), QUIET),
        words(rank, QUIET),
    ]


def _pinned(pins: Iterable[ValueDifference]) -> list[Row]:
    return [_row(f"pinned {pin.name}", *(f"@{str(ref).rpartition('@')[2]}" for ref in (pin.a, pin.b))) for pin in pins]
