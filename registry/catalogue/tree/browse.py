"""Revisions for display, in a constant number of queries; and the numbers of deleted ones, which are never reused."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any, Final

from sqlalchemy import Label, Select, bindparam, select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import (
    IS_DELETION,
    Adapter,
    Annotation,
    BaseModelRecord,
    EventRecord,
    Metric,
    Revision,
    RevisionTarget,
    Tag,
)
from registry.catalogue.database.upsert import collected, rows_in
from registry.catalogue.database.visibility import INCLUDE_DELETED
from registry.catalogue.store.blobs import parts, sources_shown
from registry.catalogue.tree import ancestry, bases, old_names, provenance, resolution, revisions
from registry.catalogue.tree.ancestry import Ancestry
from registry.catalogue.tree.links import LinkRow, links_to
from registry.errors import NotFoundError
from registry.reference import Path
from registry.schemas import CopiedFrom, DeletedRevision, LineageEntry, Log, RevisionSummary, TargetGroup

_AT_ONCE: Final = 1000
"""Numbers that are looked at together."""

_Missing = tuple[int, datetime | None]
"""A number that no revision has, and when its row was marked as deleted; None: it has no row."""


def deleted(
    session: Session,
    path: Path,
    now: datetime,
    grace: timedelta,
    *,
    before: int | None = None,
    above: int = 0,
    limit: int | None = None,
) -> tuple[DeletedRevision, ...]:
    """What was deleted of an adapter and not restored, by falling numbers; also of one that has nothing else left.

    Those between two numbers, at most ``limit``.

    Raises:
        NotFoundError: the adapter does not exist, and never did; offers the nearest.
        UsageError: the path names a base model.
    """
    found = deleted_between(session, path, now, grace, before=before, above=above, limit=limit)
    if not found and before is None and not above:
        revisions.adapter(session, path)
    return found


def deleted_between(
    session: Session,
    path: Path,
    now: datetime,
    grace: timedelta,
    *,
    before: int | None = None,
    above: int = 0,
    limit: int | None = None,
) -> tuple[DeletedRevision, ...]:
    """The same, whether or not the adapter exists: nothing is deleted of one that this session does not see."""
    missing = _missing(session, path, before, above)
    return tuple(islice(_known(session, path, missing, now, grace), limit))


def _missing(session: Session, path: Path, before: int | None, above: int) -> Iterator[_Missing]:
    """The numbers between these that were given and that no revision has, the highest first."""
    query = select(Adapter.id, Adapter.next_number, Adapter.live_revisions).where(Adapter.path == str(path))
    adapter = session.execute(query).one_or_none()
    if adapter is None or adapter.live_revisions == adapter.next_number - 1:
        return
    end = adapter.next_number if before is None else min(before, adapter.next_number)
    for top in range(end, above + 1, -_AT_ONCE):
        numbers = range(max(above + 1, top - _AT_ONCE), top)
        rows = select(Revision.number, Revision.deleted_at).where(
            Revision.adapter_id == adapter.id, Revision.number >= numbers[0], Revision.number < top
        )
        there = dict(session.execute(rows, execution_options=INCLUDE_DELETED).all())
        for number in reversed(numbers):
            if number not in there or there[number] is not None:
                yield number, there.get(number)


def _known(
    session: Session, path: Path, missing: Iterable[_Missing], now: datetime, grace: timedelta
) -> Iterator[DeletedRevision]:
    """Those of the numbers that have a row, or an event that records their deletion."""
    for part in parts(missing):
        noted = _noted(session, [f"{path}@{number}" for number, _ in part])
        for number, since in part:
            event = noted.get(f"{path}@{number}")
            if event is None and since is None:
                continue
            detail: Mapping[str, Any] = {} if event is None else event.detail
            yield DeletedRevision(
                reference=f"{path}@{number}",
                number=number,
                digest=detail.get("digest"),
                message=detail.get("message"),
                deleted_at=since if event is None else event.at,
                deleted_by=None if event is None else event.actor,
                until=since + grace if since is not None and since + grace > now else None,
            )


def _noted(session: Session, references: list[str]) -> dict[str, EventRecord]:
    """The last deletion of each."""
    query = select(EventRecord).where(IS_DELETION, EventRecord.action == "delete", EventRecord.subject.in_(references))
    return {event.subject: event for event in session.scalars(query.order_by(EventRecord.id))}


RECENT: Final = 200
"""Revisions whose metrics make a series."""
_MOST_VALUES: Final = 20_000
"""Of all series together."""


def summary(session: Session, revision_id: int) -> RevisionSummary:
    """One revision, as lists show it.

    Raises:
        NotFoundError: it does not exist any more.
    """
    rows = reading(session).rows(_ANCESTRY, {"id": revision_id})
    return _of_one(session, revision_id, ancestry.read(session, rows))


def summary_of(session: Session, found: Sequence[LinkRow]) -> RevisionSummary:
    """The same of the last one of some links, which say what its ancestors do."""
    tip = found[-1].revision
    behind = any(link.newest is not None and link.revision.number < link.newest for link in found[:-1])
    retracted = next((link.revision.retracted for link in reversed(found) if link.revision.retracted is not None), None)
    about = Ancestry(frozenset({tip.id} if behind else ()), {} if retracted is None else {tip.id: retracted})
    return _of_one(session, tip.id, about)


def _of_one(session: Session, revision_id: int, about: Ancestry) -> RevisionSummary:
    rows = reading(session).rows(_SUMMARY, {"id": revision_id})
    found = _summaries(session, rows[:1], _measured(rows), about)
    if not found:
        raise NotFoundError("The revision no longer exists.")
    return found[revision_id]


def labels(session: Session, revision_id: int) -> tuple[tuple[str, ...], dict[str, float]]:
    """The tags of one revision, by name, and its metrics."""
    rows = reading(session).rows(_LABELS, {"id": revision_id})
    tags = sorted(tag for row in rows[:1] for (tag,) in rows_in(row.tags))
    return tuple(tags), dict(sorted((name, value) for _, name, value in _measured(rows)))


def _measured(rows: Sequence[Any]) -> list[tuple[int, str, float]]:
    """The metrics of one revision, of which it has a row each."""
    return [(row.id, row.metric, row.value) for row in rows if row.metric is not None]


def summaries(session: Session, chosen: Select[int] | Sequence[int]) -> dict[int, RevisionSummary]:
    """Some revisions, by key: their keys, or a query that gives them."""
    found: dict[int, RevisionSummary] = {}
    for rows in parts(session.execute(_shown(chosen))):
        keys = [row.id for row in rows]
        found |= _summaries(session, rows, session.execute(_metrics(keys)), ancestry.ancestry(session, keys))
    return found


def _summaries(
    session: Session, rows: Sequence[Any], measured: Iterable[Any], about: Ancestry
) -> dict[int, RevisionSummary]:
    """What rows of `_shown` and `_metrics` say about the same revisions, with what their ancestors do."""
    metrics: dict[int, dict[str, float]] = defaultdict(dict)
    for revision_id, name, value in measured:
        metrics[revision_id][name] = value
    derived = provenance.shown(session, {row.id: row.derived_from for row in rows})
    combined = sources_shown(session, [row.id for row in rows if row.combined])
    new_names = old_names.visible_names(session, (row.renamed_to for row in rows))
    return {
        row.id: RevisionSummary(
            reference=f"{row.path}@{row.number}",
            path=row.path,
            number=row.number,
            digest=row.digest,
            parent=row.path.split("/")[0] if row.parent_path is None else f"{row.parent_path}@{row.parent_number}",
            behind=row.id in about.behind,
            rank=row.rank,
            parameters=row.parameters,
            size=row.size,
            message=row.message,
            author=row.author,
            created_at=row.created_at,
            tags=tuple(sorted(tag for (tag,) in rows_in(row.tags))),
            metrics=dict(sorted(metrics[row.id].items())),
            annotations=dict(sorted(map(tuple, rows_in(row.annotations)))),
            trained_on=row.trained_on,
            notices=tuple(row.notices),
            retracted=about.retracted.get(row.id),
            source=row.source,
            parent_known_by=row.parent_known_by,
            derived_from=derived.get(row.id),
            copied_from=None
            if row.copied_from is None
            else CopiedFrom.model_validate_json(json.dumps(row.copied_from)),
            renamed_to=row.renamed_to if row.renamed_to in new_names else None,
            sources=combined.get(row.id, ()),
        )
        for row in rows
    }


def _metrics(chosen: Select[int] | Sequence[int]) -> Select[*tuple[Any, ...]]:
    return select(Metric.revision_id, Metric.name, Metric.value).where(Metric.revision_id.in_(chosen))


def _shown(chosen: Select[int] | Sequence[int]) -> Select[*tuple[Any, ...]]:
    return _columns().where(Revision.id.in_(chosen))


def _collected_tags() -> Label[Any]:
    return collected(Tag.name).where(Tag.revision_id == Revision.id).scalar_subquery().label("tags")


@cache  # made once: it takes longer to make than to run
def _columns() -> Select[*tuple[Any, ...]]:
    parent, parent_adapter = aliased(Revision), aliased(Adapter)
    return (
        select(
            Revision.id,
            Revision.number,
            Revision.digest,
            Revision.rank,
            Revision.parameters,
            Revision.size,
            Revision.message,
            Revision.author,
            Revision.created_at,
            Revision.trained_on,
            Revision.notices,
            Revision.source,
            Revision.parent_known_by,
            Revision.derived_from,
            Revision.copied_from,
            Revision.combined,
            Adapter.path,
            Adapter.renamed_to,
            parent_adapter.path.label("parent_path"),
            parent.number.label("parent_number"),
            _collected_tags(),
            collected(Annotation.key, Annotation.value)
            .where(Annotation.revision_id == Revision.id)
            .scalar_subquery()
            .label("annotations"),
        )
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .outerjoin(parent, parent.id == Revision.parent_id)
        .outerjoin(parent_adapter, parent_adapter.id == parent.adapter_id)
    )


def _one() -> Select[int]:
    return select(Revision.id).where(Revision.id == bindparam("id"))


def _with_metrics(query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """A row for each metric of a revision: in one value as its tags are, their floats would lose digits."""
    found = query.outerjoin(Metric, Metric.revision_id == Revision.id)
    return found.add_columns(Metric.name.label("metric"), Metric.value.label("value"))


def _labels() -> Select[*tuple[Any, ...]]:
    return select(Revision.id, _collected_tags()).where(Revision.id == bindparam("id"))


_ANCESTRY: Final = Prepared(lambda _: ancestry.found(_one()))
_SUMMARY: Final = Prepared(lambda _: _with_metrics(_shown(_one())))
_LABELS: Final = Prepared(lambda _: _with_metrics(_labels()))


def check_there(session: Session, path: Path) -> None:
    """Check that a path has a base model or an adapter; raises `NotFoundError`, which offers the nearest."""
    if not path.is_base:
        revisions.adapter(session, path)
    elif session.scalar(select(BaseModelRecord.id).where(BaseModelRecord.name == path.base)) is None:
        raise bases.missing(session, path.base)


def log(session: Session, path: Path, *, before: int | None = None, limit: int | None = None) -> Log:
    """All revisions of an adapter, newest first; those below a number, at most ``limit``.

    Raises:
        NotFoundError: the adapter does not exist; offers the nearest.
        UsageError: the path names a base model.
    """
    adapter_id = revisions.adapter(session, path)
    chosen = select(Revision.id).where(Revision.adapter_id == adapter_id)
    if before is not None:
        chosen = chosen.where(Revision.number < before)
    if limit is not None:
        chosen = chosen.order_by(Revision.number.desc()).limit(limit)
    found = summaries(session, chosen)
    return Log(path=str(path), revisions=tuple(sorted(found.values(), key=lambda one: -one.number)))


def recent_metrics(session: Session, path: Path) -> dict[str, dict[int, float]]:
    """Each metric of the newest `RECENT` revisions of an adapter by number, oldest first; the most frequent first.

    Raises:
        NotFoundError: the adapter does not exist; offers the nearest.
        UsageError: the path names a base model.
    """
    own = select(Revision.id, Revision.number).where(Revision.adapter_id == revisions.adapter(session, path))
    newest = own.order_by(Revision.number.desc()).limit(RECENT).subquery()
    query = select(newest.c.number, Metric.name, Metric.value).join(Metric, Metric.revision_id == newest.c.id)
    rows = session.execute(query.order_by(newest.c.number.desc()).limit(_MOST_VALUES)).all()
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for number, name, value in reversed(rows):
        found[name][number] = value
    return dict(sorted(found.items(), key=lambda one: (-len(one[1]), one[0])))


def lineage_entries(session: Session, revision_id: int) -> tuple[LineageEntry, ...]:
    """The lineage of a revision with the base model before it, root first.

    Raises:
        NotFoundError: the revision does not exist any more.
    """
    found = links_to(session, revision_id)
    return (base_entry(session, found[0].revision.base), *map(entry, found))


def entry(link: LinkRow) -> LineageEntry:
    """A revision as an entry of a lineage."""
    row = link.revision
    return LineageEntry(
        reference=row.reference,
        digest=row.digest,
        number=row.number,
        rank=row.rank,
        newest=link.newest,
        retracted=row.retracted is not None,
        combined=row.combined,
    )


def base_entry(session: Session, name: str) -> LineageEntry:
    """The base model as the first entry of a lineage.

    Raises:
        NotFoundError: no base model has this name; offers the nearest.
    """
    found = reading(session).first(_BASE, {"name": name})
    if found is None:
        raise bases.missing(session, name)
    return resolution.base_entry(name, found.digest)


_BASE: Final = Prepared(lambda _: select(BaseModelRecord.digest).where(BaseModelRecord.name == bindparam("name")))


def targets(session: Session, revision_id: int) -> tuple[TargetGroup, ...]:
    """The target modules of a revision, grouped by leaf name."""
    rows = reading(session).rows(_TARGETS, {"id": revision_id})
    return tuple(
        TargetGroup(name=row.name, modules=row.modules, ranks=tuple(row.ranks), scalings=tuple(row.scalings))
        for row in sorted(rows, key=lambda row: row.name)
    )


_TARGETS: Final = Prepared(
    lambda _: select(RevisionTarget.name, RevisionTarget.modules, RevisionTarget.ranks, RevisionTarget.scalings).where(
        RevisionTarget.revision_id == bindparam("id")
    )
)
