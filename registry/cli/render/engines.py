"""Renders whether an engine loads an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from registry.cli.render.screen import BEHIND, QUIET, REFERENCE, Line, Span, fields, phrase, words

if TYPE_CHECKING:
    from registry.schemas.artifacts import EngineCheck, EngineReason


def check_lines(found: EngineCheck, width: int | None) -> list[Line]:
    """Yes, or no with every reason; and the command that writes what loads."""
    limit = "any rank" if found.max_lora_rank is None else f"at most {found.max_lora_rank}"
    pairs = [
        ("engine", [words(f"{found.engine} {found.version}")]),
        ("loads", [words("yes" if found.loads else "no", "" if found.loads else BEHIND)]),
        ("rank", [words("-" if found.rank is None else f"{found.rank} of {limit}")]),
        *(pair for reason in found.reasons for pair in _reason(reason)),
        *(("note", [words(note)]) for note in found.notes),
        ("would do", [[phrase(found.would_do)]]),
    ]
    return [(Span(found.reference, REFERENCE),), *fields(pairs, width)]


def _reason(reason: EngineReason) -> Iterator[tuple[str, list[list[Span]]]]:
    yield reason.code, [words(f"{reason.sentence} {reason.remedy}")]
    if reason.source:
        yield "", [words(reason.source, QUIET)]
