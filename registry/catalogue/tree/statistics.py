"""Statistics of revisions as they are kept: documents of one version's form, and the values that searches ask for."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from typing import Final, Literal, NamedTuple, get_args

from sqlalchemy import bindparam, delete, select
from sqlalchemy.orm import Session

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.statistics_tables import StatisticsRecord, StatisticValueRecord
from registry.catalogue.database.tables import Revision
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
    """Those of some deltas that are kept in this version's form; ``relative``: only those with relative figures."""
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
    """Keep statistics of revisions, instead of what was kept of them; of deleted revisions nothing is kept.

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
    """The figures of the revision's own delta that searches ask for; empty where none are kept."""
    found = {row.name: row.value for row in reading(session).rows(_VALUES, {"id": revision_id})}
    return {name: found[name] for name in get_args(StatisticName) if name in found}


def _keep_values(session: Session, revision_id: int, statistics: DeltaStatistics) -> None:
    session.execute(delete(StatisticValueRecord).where(StatisticValueRecord.revision_id == revision_id))
    for name in get_args(StatisticName):
        value = getattr(statistics, name)
        if value is not None:
            session.add(StatisticValueRecord(revision_id=revision_id, name=name, value=value))
