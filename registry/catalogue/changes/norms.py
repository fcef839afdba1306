"""Keeping the norms of a base model."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.database.statistics_tables import BaseNormsRecord
from registry.catalogue.database.tables import BaseModelRecord
from registry.catalogue.tree.norms import NormsRow


def keep(session: Session, name: str, digest: str, norms: NormsRow) -> bool:
    """Keep the norms of a base model, in the place of those that it has.

    False, and nothing is changed: there is none of this name with these weights and this target table any more.

    Args:
        session: a write transaction.
        name: the base model.
        digest: of its weights.
        norms: for its target table.
    """
    held = select(BaseModelRecord.id).where(
        BaseModelRecord.name == name,
        BaseModelRecord.digest == digest,
        BaseModelRecord.table_digest == norms.table_digest,
    )
    base_id = session.scalar(held.with_for_update())  # two jobs at once: the second finds the row of the first
    if base_id is None:
        return False
    put(session, base_id, norms)
    return True


def put(session: Session, base_id: int, norms: NormsRow) -> None:
    """Write the norms of a base model whose row is held, or new."""
    row = session.get(BaseNormsRecord, base_id) or BaseNormsRecord(base_id=base_id)
    row.format, row.table_digest, row.document = norms.format, norms.table_digest, norms.document
    session.add(row)
    session.flush()
