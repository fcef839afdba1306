"""The summary of a revision that this transaction has made: from what it wrote, without reading that again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.changes.publish import NewRevision
from registry.catalogue.database.tables import Revision
from registry.catalogue.store.combinations import sources_shown
from registry.catalogue.tree import provenance
from registry.catalogue.tree.ancestry import ancestry
from registry.catalogue.tree.revisions import RevisionRow
from registry.schemas import RevisionSummary


def new_summary(
    session: Session,
    row: RevisionRow,
    new: NewRevision,
    *,
    tags: Iterable[str],
    metrics: Mapping[str, float],
    annotations: Mapping[str, str],
) -> RevisionSummary:
    """What `registry.catalogue.tree.browse.summary` says of ``row``, which was made of ``new`` and labelled so.

    What is above it may have changed meanwhile, and is read.
    """
    behind, retracted, derived_from = False, None, None
    if row.parent_id is not None or row.combined:
        above = ancestry(session, select(Revision.id).where(Revision.id == row.id))
        behind, retracted = row.id in above.behind, above.retracted.get(row.id)
    if new.derived_from is not None:
        derived_from = provenance.shown(session, {row.id: provenance.kept(new.derived_from)}).get(row.id)
    return RevisionSummary(
        reference=row.reference,
        path=row.path,
        number=row.number,
        digest=row.digest,
        parent=row.parent,
        behind=behind,
        rank=row.rank,
        parameters=row.parameters,
        size=row.size,
        message=row.message,
        author=row.author,
        created_at=row.created_at,
        tags=tuple(sorted(set(tags))),
        metrics=dict(sorted(metrics.items())),
        annotations=dict(sorted(annotations.items())),
        trained_on=row.trained_on,
        notices=row.notices,
        retracted=retracted,
        source=new.source,
        parent_known_by=new.parent_known_by,
        derived_from=derived_from,
        copied_from=new.copied_from,
        sources=sources_shown(session, [row.id]).get(row.id, ()) if row.combined else (),
    )
