"""Retention: rules that define which revisions of an adapter are retained, and runs that delete the others.

A run deletes as `registry delete` does: the revisions can be restored until the grace period is over, all of one run
together. A service runs the rule of a path after each publish to it.

Which revisions a retention rule retains, and why: from their metadata alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, get_args

from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion
from registry.catalogue.changes import retention as rules
from registry.catalogue.changes.deletion import DeletedTags
from registry.catalogue.changes.retention import KeptRevision
from registry.catalogue.tree.cards import uses
from registry.progress import Progress
from registry.reference import Path
from registry.schemas.requests import Best, RetentionRequest, RunRetentionRequest, SetRetentionRequest, check_rule
from registry.schemas.team import KeepReason, KeptFor, Retention, RetentionRule
from registry.services.deployment import Deployment


def kept_by_rule(rule: RetentionRule, revisions: Sequence[KeptRevision]) -> Mapping[int, tuple[KeepReason, ...]]:
    """The keys of the retained revisions, each with the reasons.

    Retracted revisions are retained, so that their reasons are still shown, and take no place among the last or the
    best ones.
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


AT_ONCE: Final = 250
"""Revisions that one transaction deletes: SQLite has one writer, and others wait meanwhile."""
WHY: Final = "the retention rule"


@dataclass(frozen=True)
class _Choice:
    """A rule, applied to the revisions that exist now."""

    rule: RetentionRule
    revisions: Sequence[KeptRevision]  # by rising numbers
    kept: Mapping[int, tuple[KeepReason, ...]]

    @property
    def going(self) -> tuple[KeptRevision, ...]:
        """Those that nothing retains."""
        return tuple(one for one in self.revisions if one.id not in self.kept)


def set_rule(deployment: Deployment, request: SetRetentionRequest) -> Retention:
    """Set a rule, and return what a run would delete now; nothing is deleted.

    Raises:
        UsageError: the rule is empty or ambiguous, or the path names a base model.
        NotFoundError: the adapter does not exist.
        ConflictError: ``renamed``, it is an old name.
    """
    check_rule(request.path, request.keep_last, request.keep_every, request.keep_best)
    path = Path.parse(request.path)
    deployment.change(lambda session: rules.set_rule(session, path, request, deployment.principal))
    return show(deployment, RetentionRequest(path=request.path))


def show(deployment: Deployment, request: RetentionRequest) -> Retention:
    """The rule of an adapter, and what a run would delete now.

    Raises:
        NotFoundError: the adapter does not exist, or has no rule.
    """
    path = Path.parse(request.path)
    with deployment.read() as session:
        choice = _choice(session, *rules.get(session, path))
        used = uses(session, [one.id for one in choice.going]).together
    going = {f"{path}@{one.number}": tuple(f"{path}@{tag}" for tag in one.tags) for one in choice.going}
    return _told(choice, going).model_copy(update={"use": used})


def clear(deployment: Deployment, request: RetentionRequest) -> RetentionRule:
    """Remove the rule of an adapter.

    Raises:
        NotFoundError: the adapter does not exist, or has no rule.
    """
    path = Path.parse(request.path)
    return deployment.change(lambda session: rules.clear(session, path, deployment.principal))


def run(deployment: Deployment, request: RunRetentionRequest, progress: Progress) -> Retention:
    """Delete what the rule of an adapter no longer retains.

    Raises:
        NotFoundError: the adapter does not exist, or has no rule.
    """
    path = Path.parse(request.path)
    if request.dry_run:
        return show(deployment, RetentionRequest(path=request.path))
    with deployment.read() as session:
        choice = _choice(session, *rules.get(session, path))
    gone = _delete_by_parts(deployment, choice, progress)
    until = datetime.now(UTC) + timedelta(seconds=deployment.gc_grace)
    return _told(choice, gone).model_copy(update={"done": True, "until": until})


def run_if_set(deployment: Deployment, path: Path, progress: Progress) -> None:
    """The same, if an adapter has a rule; nothing for an adapter that does not exist."""
    with deployment.read() as session:
        found = rules.find(session, path)
        if found is None:
            return
        choice = _choice(session, *found)
    _delete_by_parts(deployment, choice, progress)


def _choice(session: Session, adapter_id: int, rule: RetentionRule) -> _Choice:
    names = {Best.parse(one).metric for one in rule.keep_best}
    revisions = rules.asked_about(session, Path.parse(rule.path), adapter_id, names)
    return _Choice(rule, revisions, kept_by_rule(rule, revisions))


def _delete_by_parts(deployment: Deployment, choice: _Choice, progress: Progress) -> DeletedTags:
    """Delete what a choice does not retain, by parts; each part's transaction evaluates the rule again."""
    path, going, now = Path.parse(choice.rule.path), choice.going, datetime.now(UTC)
    gone: DeletedTags = {}
    progress.begin(f"Deleting revisions of {path}", sum(one.size for one in going))
    for begin in range(0, len(going), AT_ONCE):
        part = {one.id: one for one in going[begin : begin + AT_ONCE]}

        def work(session: Session, part: Mapping[int, KeptRevision] = part) -> DeletedTags:
            deletion.hold_revisions(session, part)
            found = rules.find(session, path)
            if found is None:  # removed meanwhile: nothing more goes
                return {}
            still = [one.id for one in _choice(session, *found).going if one.id in part]
            return deletion.delete_held(session, still, deployment.principal, now, WHY)

        gone |= deployment.change(work)
        progress.advance(sum(one.size for one in part.values()))
    return gone


def _told(choice: _Choice, going: DeletedTags) -> Retention:
    counted = Counter(why for reasons in choice.kept.values() for why in reasons)
    return Retention(
        rule=choice.rule,
        revisions=tuple(going),
        tags=tuple(sorted(tag for tags in going.values() for tag in tags)),
        kept=len(choice.revisions) - len(going),
        reasons=tuple(KeptFor(reason=why, revisions=counted[why]) for why in get_args(KeepReason) if counted[why]),
    )
