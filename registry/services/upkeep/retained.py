"""Which revisions a retention rule keeps, and why: from what is known about them alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from registry.catalogue.changes.retention import KeptRevision
from registry.schemas.requests import Best
from registry.schemas.team import KeepReason, RetentionRule


def kept_by_rule(rule: RetentionRule, revisions: Sequence[KeptRevision]) -> Mapping[int, tuple[KeepReason, ...]]:
    """The keys of the revisions that are kept, each with the reasons.

    What was retracted is kept, so that its reason is still told, and takes no place among the last or the best ones.
    """
    in_use = [one for one in revisions if not one.is_retracted]
    newest = max((one.number for one in revisions), default=0)
    last = _keys_of_last(rule.keep_last, in_use)
    best = {key for text in rule.keep_best for key in _keys_of_best(Best.parse(text), in_use)}

    def reasons(one: KeptRevision) -> Iterator[KeepReason]:
        if one.number == newest:
            yield "newest"
        if one.id in last:
            yield "last"
        if rule.keep_every is not None and one.number % rule.keep_every == 0:
            yield "every"
        if one.id in best:
            yield "best"
        if one.is_protected or (rule.keep_tagged and one.tags):
            yield "tagged"
        if one.has_children:
            yield "children"
        if one.is_combined:
            yield "combinations"
        if one.is_materialised:
            yield "materialised"
        if one.is_retracted:
            yield "retracted"

    found = {one.id: tuple(reasons(one)) for one in revisions}
    return {key: why for key, why in found.items() if why}


def _keys_of_last(count: int | None, revisions: Sequence[KeptRevision]) -> set[int]:
    ordered = sorted(revisions, key=lambda one: one.number, reverse=True)
    return {one.id for one in ordered[: count or 0]}


def _keys_of_best(best: Best, revisions: Sequence[KeptRevision]) -> set[int]:
    """Those with the best values; of equal ones the newer."""
    sign = -1 if best.mode == "max" else 1
    measured = [one for one in revisions if best.metric in one.metrics]
    ordered = sorted(measured, key=lambda one: (sign * one.metrics[best.metric], -one.number))
    return {one.id for one in ordered[: best.count]}
