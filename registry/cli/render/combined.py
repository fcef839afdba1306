"""Renders what a combination is made of, and how its sources agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.cli.render.screen import QUIET, REFERENCE, Line, Span, fields, phrase, words
from registry.cli.render.text import counted
from registry.figures import amount, size

if TYPE_CHECKING:
    from registry.schemas.publishing import Combined


def combined_lines(found: Combined, width: int | None) -> list[Line]:
    """The new revision, or in a dry run its path; what it is the sum of, over what; how the sources agree."""
    name = found.path if found.revision is None else found.revision.reference
    pairs = [
        ("over", [[phrase(found.over, REFERENCE)]]),
        (
            "sum of",
            [
                [
                    Span(f"{one.weight:g} x"),
                    phrase(one.reference, REFERENCE),
                    *words(f"norm {one.frobenius:.4g}", QUIET),
                ]
                for one in found.sources
            ],
        ),
        ("energy", [words(agreement(found))]),
        ("rank", [[Span(str(found.rank))]]),
        ("size", [words(f"{size(found.size)}, {amount(found.parameters)} parameters")]),
    ]
    return [(Span(name, REFERENCE),), *fields(pairs, width)]


def agreement(found: Combined) -> str:
    """The energy ratio of the sources, and what it means."""
    norm = f"norm {found.frobenius:.4g} over {found.over}"
    if found.energy_ratio is None:
        return f"{norm}: the sources add nothing"
    if len(found.sources) == 1:
        return norm
    ratio = found.energy_ratio
    meaning = "they pile up" if ratio > 1.1 else "they cancel" if ratio < 0.9 else "nearly orthogonal"
    return f"energy ratio {ratio:.3g} of {counted(len(found.sources), 'source')} ({meaning}), {norm}"
