"""Renders what differs between two revisions: ``-`` only the first has, ``+`` only the second, ``~`` both have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from registry.cli.render.deltas import deltas_lines
from registry.cli.render.screen import BEHIND, GONE, QUIET, REFERENCE, Line, Row, Span, phrase, table, words
from registry.cli.render.text import ranked, short_digest
from registry.schemas.views import file_text, modules_text, number_text, value_text

if TYPE_CHECKING:
    from registry.schemas import LineageEntry
    from registry.schemas.difference import Difference, ValueDifference

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
