"""Retention rules: set, read and removed; and what they apply to, the revisions of an adapter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.changes import tagging
from registry.catalogue.database import events
from registry.catalogue.database.tables import Adapter, Metric, Revision, RevisionSource, Tag
from registry.catalogue.database.team_tables import MaterialisationRecord, RetentionRecord
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import revisions
from registry.errors import ConflictError, NotFoundError
from registry.reference import Path
from registry.rights import Principal
from registry.schemas.requests import SetRetentionRequest
from registry.schemas.team import RetentionRule


@dataclass(frozen=True)
class KeptRevision:
    """A revision, and what a rule needs to know about it."""

    id: int
    number: int
    size: int
    tags: tuple[str, ...]
    is_protected: bool  # one of the tags is
    metrics: Mapping[str, float]
    has_children: bool
    is_combined: bool  # a combination is made of it
    is_materialised: bool
    is_retracted: bool


def set_rule(session: Session, path: Path, given: SetRetentionRequest, principal: Principal) -> None:
    """Set the rule of an adapter, replacing the one that it has; the same one is no change.

    Raises:
        NotFoundError: the adapter does not exist; offers the nearest.
        UsageError: the path names a base model.
        ConflictError: ``renamed``, it is an old name.
    """
    adapter_id = revisions.adapter(session, path)
    # Locked, so that of two rules that are set at once the later one stays, and a rename takes it along.
    held = select(Adapter.renamed_to).where(Adapter.id == adapter_id).with_for_update()
    renamed_to = session.execute(held).scalar_one()
    if renamed_to is not None:
        raise ConflictError(
            f"{path} is an old name, to which nothing is published: set the retention rule of the new one.",
            code="renamed",
        )
    row = session.get(RetentionRecord, adapter_id)
    values = {
        "keep_last": given.keep_last,
        "keep_every": given.keep_every,
        "keep_best": list(given.keep_best),
        "keep_tagged": given.keep_tagged,
    }
    if row is not None and all(getattr(row, name) == value for name, value in values.items()):
        return
    row = row or RetentionRecord(adapter_id=adapter_id)
    for name, value in values.items():
        setattr(row, name, value)
    row.set_at, row.set_by = datetime.now(UTC), principal.name
    session.add(row)
    session.flush()
    events.record(session, "retention set", str(path), principal, values)


def find(session: Session, path: Path) -> tuple[int, RetentionRule] | None:
    """The key of an adapter and its rule; None: it has none, or does not exist."""
    query = (
        select(Adapter.id, *_COLUMNS)
        .join(RetentionRecord, RetentionRecord.adapter_id == Adapter.id)
        .where(Adapter.path == str(path))
    )
    row = session.execute(query).one_or_none()
    return None if row is None else (row.id, _rule(str(path), row))


def get(session: Session, path: Path) -> tuple[int, RetentionRule]:
    """The key of an adapter and its rule.

    Raises:
        NotFoundError: the adapter does not exist, or it has no rule.
        UsageError: the path names a base model.
    """
    revisions.adapter(session, path)
    found = find(session, path)
    if found is None:
        raise NotFoundError(
            f"{path} has no retention rule, so all its revisions are kept: `registry retention set {path}` sets one."
        )
    return found


def clear(session: Session, path: Path, principal: Principal) -> RetentionRule:
    """Remove the rule of an adapter, and return it; raises what `get` raises."""
    adapter_id, rule = get(session, path)
    session.execute(delete(RetentionRecord).where(RetentionRecord.adapter_id == adapter_id))
    events.record(session, "retention clear", str(path), principal, _detail(rule))
    return rule


def clear_where_nothing_is_left(session: Session, deleted: Collection[int], principal: Principal) -> None:
    """Remove the rules of adapters whose last revision is among the deleted ones: they are about no later adapter."""
    for part in parts(sorted(deleted)):
        touched = select(Revision.adapter_id).where(Revision.id.in_(part))
        query = (
            select(Adapter.id, Adapter.path, *_COLUMNS)
            .join(RetentionRecord, RetentionRecord.adapter_id == Adapter.id)
            .where(Adapter.id.in_(touched), Adapter.live_revisions == 0)
        )
        for row in session.execute(query, execution_options=INCLUDE_DELETED).all():
            session.execute(delete(RetentionRecord).where(RetentionRecord.adapter_id == row.id))
            events.record(session, "retention clear", row.path, principal, _detail(_rule(row.path, row)))


def asked_about(session: Session, path: Path, adapter_id: int, metrics: Collection[str]) -> tuple[KeptRevision, ...]:
    """All revisions of an adapter by rising numbers, with their values of some metrics.

    What needs a revision counts whether or not the session may see it.
    """
    query = select(Revision.id, Revision.number, Revision.size, Revision.retracted_at)
    rows = session.execute(query.where(Revision.adapter_id == adapter_id).order_by(Revision.number)).all()
    keys = [row.id for row in rows]
    tags: dict[int, list[str]] = defaultdict(list)
    for key, name in session.execute(select(Tag.revision_id, Tag.name).where(Tag.adapter_id == adapter_id)):
        tags[key].append(name)
    protected = tagging.protected(session, path.base, {name for names in tags.values() for name in names})
    values = _values(session, keys, metrics)
    children = _with_children(session, keys)
    combined, materialised = _combined(session, adapter_id), _materialised(session, adapter_id)
    return tuple(
        KeptRevision(
            id=row.id,
            number=row.number,
            size=row.size,
            tags=tuple(sorted(tags.get(row.id, ()))),
            is_protected=not protected.isdisjoint(tags.get(row.id, ())),
            metrics=values.get(row.id, {}),
            has_children=row.id in children,
            is_combined=row.id in combined,
            is_materialised=row.id in materialised,
            is_retracted=row.retracted_at is not None,
        )
        for row in rows
    )


# By their keys, some at a time: of an adapter with many revisions PostgreSQL would read all revisions of the registry.


def _values(session: Session, keys: Sequence[int], metrics: Collection[str]) -> dict[int, dict[str, float]]:
    """The values of some metrics of some revisions, by key and name."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    query = select(Metric.revision_id, Metric.name, Metric.value).where(Metric.name.in_(sorted(metrics)))
    for part in parts(keys) if metrics else ():
        for key, name, value in session.execute(query.where(Metric.revision_id.in_(part))):
            found[key][name] = value
    return found


def _with_children(session: Session, keys: Sequence[int]) -> set[int]:
    """The keys of those of some revisions that others were trained on."""
    found: set[int] = set()
    for part in parts(keys):
        parents = select(Revision.parent_id).where(Revision.parent_id.in_(part)).distinct()
        found.update(key for key in session.scalars(parents, execution_options=IGNORE_RIGHTS) if key is not None)
    return found


def _combined(session: Session, adapter_id: int) -> set[int]:
    """The keys of an adapter's revisions that combinations are made of."""
    own, combination = aliased(Revision), aliased(Revision)
    query = (
        select(own.id)
        .join(RevisionSource, RevisionSource.source_id == own.id)
        .join(combination, combination.id == RevisionSource.revision_id)
        .where(own.adapter_id == adapter_id)
    )
    return set(session.scalars(query.distinct(), execution_options=IGNORE_RIGHTS))


def _materialised(session: Session, adapter_id: int) -> set[int]:
    """The keys of an adapter's revisions of which something is materialised."""
    query = (
        select(Revision.id)
        .join(MaterialisationRecord, MaterialisationRecord.revision_id == Revision.id)
        .where(Revision.adapter_id == adapter_id, MaterialisationRecord.expires_at > datetime.now(UTC))
    )
    return set(session.scalars(query.distinct(), execution_options=IGNORE_RIGHTS))


_COLUMNS = (
    RetentionRecord.keep_last,
    RetentionRecord.keep_every,
    RetentionRecord.keep_best,
    RetentionRecord.keep_tagged,
    RetentionRecord.set_at,
    RetentionRecord.set_by,
)


def _rule(path: str, row: Any) -> RetentionRule:
    return RetentionRule(path=path, **{column.key: getattr(row, column.key) for column in _COLUMNS})


def _detail(rule: RetentionRule) -> dict[str, object]:
    return rule.model_dump(exclude={"path", "set_at", "set_by"}, mode="json")
