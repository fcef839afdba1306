"""The command that takes the norms of a base model's weights: base measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.cli.options import BaseName, Json, Url
from registry.cli.render.screen import QUIET, REFERENCE, Line, Span, fields, words
from registry.cli.render.text import counted
from registry.cli.session import session

if TYPE_CHECKING:
    from registry.schemas import BaseMeasured


def base_measure(
    name: BaseName,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Take the norms of a base model's weights.

    What a revision changes is told relative to them. A base model has them when it is added; this is for one that was
    added by an earlier version, or whose target table was rebuilt. It reads the weights once, and changes nothing else.
    """
    with session(url, as_json) as run:
        answer = run.registry.measure_base(name, progress=run.progress)
        run.answer(answer, lambda width: measured_lines(answer, width))


def measured_lines(answer: BaseMeasured, width: int | None) -> list[Line]:
    """The base model, and how many norms there are."""
    there = [] if answer.measured else [words("they were there already: no weights were read", QUIET)]
    pairs = [("norms", [words(f"of {counted(answer.norms, 'parameter')}"), *there])]
    return [(Span(answer.base, REFERENCE),), *fields(pairs, width)]
