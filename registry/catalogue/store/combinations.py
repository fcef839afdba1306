"""What combinations are made of, and what stands on a revision: children, combinations, and what stands on those."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database.tables import Adapter, Revision, RevisionSource
from registry.catalogue.database.visibility import IGNORE_RIGHTS
from registry.catalogue.store.blobs import parts
from registry.schemas.tree import CombinedOf

_SOURCE, _BELOW = aliased(Revision), aliased(Revision)


def sources_shown(session: Session, combined: Sequence[int]) -> dict[int, tuple[CombinedOf, ...]]:
    """The sources of some combinations, by key; of one whose adapter the session does not see, the weight alone."""
    query = (
        select(RevisionSource.revision_id, RevisionSource.weight, _SOURCE.number, _SOURCE.digest, Adapter.path)
        .join(_SOURCE, _SOURCE.id == RevisionSource.source_id)
        .outerjoin(Adapter, Adapter.id == _SOURCE.adapter_id)
        .order_by(RevisionSource.revision_id, RevisionSource.place)
    )
    found: dict[int, list[CombinedOf]] = {}
    for part in parts(combined):
        for row in session.execute(query.where(RevisionSource.revision_id.in_(part))):
            seen = row.path is not None
            one = CombinedOf(
                reference=f"{row.path}@{row.number}" if seen else None,
                digest=row.digest if seen else None,
                weight=row.weight,
            )
            found.setdefault(row.revision_id, []).append(one)
    return {key: tuple(sources) for key, sources in found.items()}


def pinned_sources(session: Session, combination: int) -> tuple[tuple[int, float], ...]:
    """The keys of the sources of a combination, seen or not, with their weights, in order."""
    query = select(RevisionSource.source_id, RevisionSource.weight).where(RevisionSource.revision_id == combination)
    return tuple((row.source_id, row.weight) for row in session.execute(query.order_by(RevisionSource.place)))


def standing_on(session: Session, keys: Iterable[int], options: dict[str, Any] = IGNORE_RIGHTS) -> set[int]:
    """Everything that contains some revisions: what was trained on them or combined of them, and so on; with them.

    ``options`` are those of the queries: whether deleted revisions count.
    """
    found: set[int] = set()
    waiting = set(keys)
    while waiting:
        below: set[int] = set()
        for part in parts(sorted(waiting)):
            chain = select(Revision.id).where(Revision.id.in_(part)).cte("chain", recursive=True)
            chain = chain.union(select(_BELOW.id).join(chain, _BELOW.parent_id == chain.c.id))
            below.update(session.scalars(select(chain.c.id), execution_options=options))
        found |= waiting | below
        waiting = combined_of(session, below, options) - found
    return found


def combined_of(session: Session, keys: Iterable[int], options: dict[str, Any] = IGNORE_RIGHTS) -> set[int]:
    """The keys of the combinations that have one of some revisions as a source; ``options`` as of `standing_on`."""
    found: set[int] = set()
    for part in parts(sorted(keys)):
        own = select(RevisionSource.revision_id).where(RevisionSource.source_id.in_(part))
        found.update(session.scalars(select(Revision.id).where(Revision.id.in_(own)), execution_options=options))
    return found
