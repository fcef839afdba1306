"""Norms of base models, as they are kept: a document that the services write and read."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.database.statistics_tables import BaseNormsRecord
from registry.catalogue.database.tables import BaseModelRecord


@dataclass(frozen=True)
class NormsRow:
    """The norms of the slots of a target table."""

    format: int
    table_digest: str
    document: bytes


def get(session: Session, name: str, digest: str, table_digest: str) -> NormsRow | None:
    """The norms of a base model with these weights and this target table; None where it is hidden, or has none."""
    query = (
        select(BaseNormsRecord.format, BaseNormsRecord.table_digest, BaseNormsRecord.document)
        .join(BaseModelRecord, BaseModelRecord.id == BaseNormsRecord.base_id)
        .where(BaseModelRecord.name == name, BaseModelRecord.digest == digest)
        .where(BaseNormsRecord.table_digest == table_digest)
    )
    row = session.execute(query).one_or_none()
    return None if row is None else NormsRow(*row)
