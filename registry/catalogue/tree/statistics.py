"""Statistics of revisions as they are stored: documents of one version's form, and the values that lists use."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

from sqlalchemy import ColumnElement, bindparam, case, delete, func, literal, select
from sqlalchemy.orm import Session

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.statistics_tables import StatisticsRecord, StatisticValueRecord
from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, Revision, RevisionTarget
from registry.catalogue.tree import order
from registry.catalogue.tree.old_names import adapter_is_listed
from registry.reference import Path
from registry.schemas import RevisionSummary
from registry.schemas.statistics import DeltaStatistics, DenseStatistics, StatisticName

Delta = Literal["link", "path", "dense"]
FORMAT: Final = 1
"""Raised where figures change their meaning or their form: older documents are computed again."""


_VALUES: Final = Prepared(
    lambda _: select(StatisticValueRecord.name, StatisticValueRecord.value).where(
        StatisticValueRecord.revision_id == bindparam("id")
    )
)


class Key(NamedTuple):
    """Of which revision, and whether of its own delta, of its whole path's, or of the dense change of the path."""

    revision_id: int
    delta: Delta


def kept(session: Session, keys: Collection[Key], *, relative: bool) -> dict[Key, DeltaStatistics]:
    """Those of some deltas that are stored in this version's form; ``relative``: only those with relative figures."""
    found = _documents(session, keys, relative=relative)
    return {key: DeltaStatistics.model_validate_json(document) for key, document in found.items()}


def kept_dense(session: Session, revision_id: int, *, relative: bool) -> DenseStatistics | None:
    """The same of the dense change of a revision's path."""
    key = Key(revision_id, "dense")
    document = _documents(session, [key], relative=relative).get(key)
    return None if document is None else DenseStatistics.model_validate_json(document)


def _documents(session: Session, keys: Collection[Key], *, relative: bool) -> dict[Key, bytes]:
    wanted = (
        select(StatisticsRecord.revision_id, StatisticsRecord.delta, StatisticsRecord.document)
        .where(StatisticsRecord.revision_id.in_({key.revision_id for key in keys}))
        .where(StatisticsRecord.format == FORMAT)
    )
    if relative:
        wanted = wanted.where(StatisticsRecord.relative)
    found = {(row.revision_id, row.delta): row.document for row in session.execute(wanted)}
    return {key: zlib.decompress(found[key]) for key in keys if tuple(key) in found}


def keep(session: Session, made: Mapping[Key, DeltaStatistics | DenseStatistics], *, relative: bool) -> None:
    """Store statistics of revisions, replacing those stored; of deleted revisions nothing is stored.

    Args:
        session: a write transaction.
        made: what was computed.
        relative: whether they have relative figures.
    """
    ids = {key.revision_id for key in made}
    held = select(Revision.id).where(Revision.id.in_(ids)).order_by(Revision.id).with_for_update()
    there = set(session.scalars(held))
    for key, statistics in made.items():
        if key.revision_id not in there:
            continue
        own = (StatisticsRecord.revision_id == key.revision_id, StatisticsRecord.delta == key.delta)
        session.execute(delete(StatisticsRecord).where(*own))
        document = zlib.compress(statistics.model_dump_json(exclude_defaults=True).encode())
        session.add(StatisticsRecord(**key._asdict(), format=FORMAT, relative=relative, document=document))
        if isinstance(statistics, DeltaStatistics) and key.delta == "link":
            _keep_values(session, key.revision_id, statistics)


def values(session: Session, revision_id: int) -> dict[str, float]:
    """The figures of the revision's own delta that searches use; empty if none are stored."""
    found = {row.name: row.value for row in reading(session).rows(_VALUES, {"id": revision_id})}
    return {name: found[name] for name in get_args(StatisticName) if name in found}


def values_of(session: Session, revision_ids: Collection[int]) -> dict[int, dict[str, float]]:
    """The same of several revisions, by key; those that are stored."""
    query = select(StatisticValueRecord.revision_id, StatisticValueRecord.name, StatisticValueRecord.value)
    found: dict[int, dict[str, float]] = {}
    for row in session.execute(query.where(StatisticValueRecord.revision_id.in_(revision_ids))):
        found.setdefault(row.revision_id, {})[row.name] = row.value
    return found


def _keep_values(session: Session, revision_id: int, statistics: DeltaStatistics) -> None:
    session.execute(delete(StatisticValueRecord).where(StatisticValueRecord.revision_id == revision_id))
    for name in get_args(StatisticName):
        value = getattr(statistics, name)
        if value is not None:
            session.add(StatisticValueRecord(revision_id=revision_id, name=name, value=value))


@dataclass
class RowFigures:
    """Of one revision."""

    scalings: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By target."""
    statistics: dict[str, float] = field(default_factory=dict)
    """Of its own delta; none if they were not computed yet."""

    @property
    def distinct(self) -> tuple[float, ...]:
        """The distinct scalings of all targets."""
        return tuple(sorted({value for values in self.scalings.values() for value in values}))


def row_figures(session: Session, shown: Sequence[RevisionSummary]) -> dict[str, RowFigures]:
    """The figures of some revisions that the session sees, by reference."""
    paths, numbers = {one.path for one in shown}, {one.number for one in shown}
    keys = select(Revision.id, Adapter.path, Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    rows = session.execute(keys.where(Adapter.path.in_(paths), Revision.number.in_(numbers))).all()
    wanted = {one.reference for one in shown}
    found = {row.id: reference for row in rows if (reference := f"{row.path}@{row.number}") in wanted}
    made = {reference: RowFigures() for reference in found.values()}
    targets = select(RevisionTarget.revision_id, RevisionTarget.name, RevisionTarget.scalings)
    for row in session.execute(targets.where(RevisionTarget.revision_id.in_(found)).order_by(RevisionTarget.name)):
        made[found[row.revision_id]].scalings[row.name] = tuple(row.scalings)
    record = StatisticValueRecord
    values = select(record.revision_id, record.name, record.value).where(record.revision_id.in_(found))
    for key, name, value in session.execute(values):
        made[found[key]].statistics[name] = value
    return made


class Touched(NamedTuple):
    """What the newest revision of an adapter touches of its base model."""

    path: str
    weights: int
    effective_rank: float | None
    """Of its own delta; None if it was not computed yet."""


def touched(session: Session, base: str, sizes: Mapping[str, float], limit: int) -> list[Touched]:
    """The adapters of a base model in the order of the tree, at most ``limit``.

    Args:
        session: an open transaction.
        base: the base model.
        sizes: weights of one module, by the last name of modules.
        limit: adapters.
    """
    own = select(Revision.id).where(Revision.adapter_id == Adapter.id).correlate(Adapter)
    newest = own.order_by(Revision.number.desc()).limit(1).scalar_subquery().label("id")
    listed = (order.within(Path(base)), HAS_REVISIONS, adapter_is_listed(session))
    chosen = select(Adapter.path, newest).where(*listed).order_by(order.PLACE).limit(limit).subquery()
    record = StatisticValueRecord
    rank = select(record.value).where(record.revision_id == chosen.c.id, record.name == "effective_rank")
    size: ColumnElement[float] = case(dict(sizes), value=RevisionTarget.name, else_=0.0) if sizes else literal(0.0)
    weights = select(func.sum(RevisionTarget.modules * size)).where(RevisionTarget.revision_id == chosen.c.id)
    rows = session.execute(select(chosen.c.path, weights.scalar_subquery(), rank.scalar_subquery()))
    return [Touched(path, round(many or 0), value) for path, many, value in rows]
