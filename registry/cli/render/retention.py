"""Renders retention rules, and what they delete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from registry.cli.render.screen import BEHIND, QUIET, REFERENCE, TAG, Line, Span, fields, phrase, words
from registry.cli.render.text import counted, moment
from registry.cli.render.use import use_items

if TYPE_CHECKING:
    from registry.schemas.team import KeepReason, Retention, RetentionRule

_REASONS: Final[dict[KeepReason, str]] = {"children": "trained on", "combinations": "combined of"}
"""What reasons are called, where that is not their name."""


def retention_lines(answer: Retention, width: int | None) -> list[Line]:
    """The path alone first, for scripts; then the rule, what goes by it, and what stays for which reason."""
    state = "deleted" if answer.done else "would go"
    gone = words(counted(len(answer.revisions), "revision"), BEHIND if answer.revisions else QUIET)
    stay = [words(counted(answer.kept, "revision"))]
    stay += [[Span(f"{_REASONS.get(one.reason, one.reason)}: {one.revisions}", QUIET)] for one in answer.reasons]
    pairs = [
        *_rule_fields(answer.rule),
        (state, [gone]),
        ("numbers", [[Span(run)] for run in runs([int(one.rpartition("@")[2]) for one in answer.revisions])]),
        ("tags", [[phrase(tag, TAG)] for tag in answer.tags]),
        ("used", use_items(answer.use) if answer.revisions else []),
        ("stay", stay),
    ]
    return [(Span(answer.rule.path, REFERENCE),), *fields(pairs, width)]


def cleared_lines(rule: RetentionRule, width: int | None) -> list[Line]:
    """The path alone first, for scripts; then the rule that it had."""
    pairs = [("state", [words("no rule any more: all revisions are kept")]), *_rule_fields(rule)]
    return [(Span(rule.path, REFERENCE),), *fields(pairs, width)]


def _rule_fields(rule: RetentionRule) -> list[tuple[str, Sequence[Sequence[Span]]]]:
    by = words(f"by {rule.set_by}", QUIET)
    return [("keep", [words(one) for one in _parts(rule)]), ("set", [[Span(f"{moment(rule.set_at)} UTC")], by])]


def _parts(rule: RetentionRule) -> Iterator[str]:
    if rule.keep_last is not None:
        yield f"last {rule.keep_last}"
    if rule.keep_every is not None:
        yield f"every {rule.keep_every}"
    yield from (f"best {one}" for one in rule.keep_best)
    if rule.keep_tagged:
        yield "tagged"


def runs(numbers: Sequence[int]) -> list[str]:
    """Rising numbers, those that follow each other together: ``["1-99", "101", "103-104"]``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][-1] + 1 == number:
            found[-1] = [found[-1][0], number]
        else:
            found.append([number])
    return ["-".join(map(str, run)) for run in found]
