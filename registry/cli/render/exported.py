"""Renders what an export would write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.cli.render.screen import QUIET, REFERENCE, Line, Span, table, words
from registry.cli.render.text import size

if TYPE_CHECKING:
    from registry.schemas.cards import Exported


def dry_run_lines(answer: Exported, width: int | None) -> list[Line]:
    """The target, the files with their sizes, and the card as it is."""
    rows = [([Span("-" if file.size is None else size(file.size), QUIET)], [words(file.path)]) for file in answer.files]
    card: list[Line] = [(Span(harmless(line)),) for line in answer.card.splitlines()]
    return [(Span(harmless(answer.target), REFERENCE),), *table(rows, width, indent=2, right=(0,)), (), *card]


def harmless(text: str) -> str:
    """A text that can't move the cursor or change colours."""
    return "".join(one if one.isprintable() or one == "\t" else "\ufffd" for one in text)
