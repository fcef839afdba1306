"""Renders how much revisions were used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from registry.cli.render.screen import QUIET, REFERENCE, Span, phrase, words
from registry.cli.render.text import clean, counted, moment

if TYPE_CHECKING:
    from registry.schemas.use import RevisionUse, Use

NO_USE: Final = "no use recorded"
_LABELS: Final = {"fetch": "fetch", "hub": "Hub", "vllm": "vLLM"}


def use_items(use: Use | None) -> list[list[Span]]:
    """How often, by how many tokens, through what and when last; nothing if it is not known."""
    if use is None:
        return []
    if use.last_used_at is None:
        return [words(NO_USE, QUIET)]
    items = [words(_often(use))]
    if use.uses:
        items += [words(f"by {counted(use.tokens, 'token')}"), words(f"({_interfaces(use.by_interface)})", QUIET)]
    return [*items, [Span(f"last {moment(use.last_used_at)} UTC")]]


def used_references(references: Iterable[str], used: Sequence[RevisionUse]) -> list[list[Span]]:
    """References, each followed by its use if it was used."""
    by_reference: Mapping[str, RevisionUse] = {one.reference: one for one in used}
    return [[phrase(one, REFERENCE), *_used(by_reference.get(one))] for one in references]


def _used(use: Use | None) -> list[Span]:
    if use is None or use.last_used_at is None:
        return []
    return words(f"(used {_often(use)}, last {moment(use.last_used_at).partition(' ')[0]})", QUIET)


def _often(use: Use) -> str:
    return f"{counted(use.uses, 'time')} in 30 days" if use.uses else "not in 30 days"


def _interfaces(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_LABELS.get(name, clean(name))} {count}" for name, count in counts.items())
