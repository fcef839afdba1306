"""Which revisions of a training run stay, where somebody asked for fewer than all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from registry.training.outbox import Sent


@dataclass(frozen=True)
class Keep:
    """How many of the best and of the last revisions stay; without both, all."""

    best: int | None = None
    last: int | None = None
    greater_is_better: bool = False


def too_many(sent: Sequence[Sent], keep: Keep) -> list[Sent]:
    """The revisions of a run that are neither among its best nor among its last, in the order of steps.

    What the run ended with stays, and so does what was there before it. One without a score is not judged by it: asked
    for the best alone, it stays.
    """
    if keep.best is None and keep.last is None:
        return []
    there = sorted((one for one in sent if not one.removed), key=lambda one: one.step)
    kept = {one.reference for one in there if one.final or not one.created}
    if keep.best is not None:
        judged = [(one.score if keep.greater_is_better else -one.score, one) for one in there if one.score is not None]
        judged.sort(key=lambda pair: pair[0], reverse=True)  # of equals the earlier
        kept |= {one.reference for _, one in judged[: keep.best]}
        if keep.last is None:
            kept |= {one.reference for one in there if one.score is None}
    if keep.last:
        kept |= {one.reference for one in there[-keep.last :]}
    return [one for one in there if one.reference not in kept]
