"""Which revisions and base models have a file with a digest that begins so, or say that their tensors have a hash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import InstrumentedAttribute

from registry.catalogue.database.tables import (
    Adapter,
    Annotation,
    BaseFile,
    BaseModelRecord,
    Revision,
    RevisionFile,
)
from registry.catalogue.tree.search_index import Has, revisions_having
from registry.digest import PREFIX
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.images.hashes import AUTOV3, AUTOV3_DIGITS

MOST: Final = 64
"""Revisions or base models that one hash may name."""


@dataclass(frozen=True)
class Named:
    """A revision or a base model that a hash may name."""

    reference: str  # PATH@N, or the base model's name
    digest: str  # of the file
    retracted: bool = False


def having_file(session: Session, digits: str) -> list[Named]:
    """The visible revisions, newest first, and then base models, that have a file whose digest begins with digits."""
    revisions = (
        select(Adapter.path, Revision.number, RevisionFile.digest, Revision.retracted_at)
        .join(Revision, Revision.adapter_id == Adapter.id)
        .join(RevisionFile, RevisionFile.revision_id == Revision.id)
        .where(_begins(RevisionFile.digest, digits))
        .order_by(Revision.id.desc())
        .limit(MOST)
    )
    bases = (
        select(BaseModelRecord.name, BaseFile.digest)
        .join(BaseFile, BaseFile.base_id == BaseModelRecord.id)
        .where(_begins(BaseFile.digest, digits))
        .order_by(BaseModelRecord.name)
        .limit(MOST)
    )
    found = [Named(f"{row.path}@{row.number}", row.digest, row.retracted_at is not None)
             for row in session.execute(revisions)]  # fmt: skip
    return [*found, *(Named(row.name, row.digest) for row in session.execute(bases))]


def saying_tensors(session: Session, digits: str) -> Iterator[Named]:
    """The visible revisions, newest first, whose annotation says that the hash of their tensors begins with digits."""
    said = digits[:AUTOV3_DIGITS]
    query = (
        select(Adapter.path, Revision.number, RevisionFile.digest, Revision.retracted_at)
        .join(Revision, Revision.adapter_id == Adapter.id)
        .join(Annotation, Annotation.revision_id == Revision.id)
        .join(RevisionFile, RevisionFile.revision_id == Revision.id)
        .where(Annotation.key == AUTOV3, Annotation.value.startswith(said), RevisionFile.path == ADAPTER_WEIGHTS)
        .order_by(Revision.id.desc())
        .limit(MOST)
    )
    keys = revisions_having(session, Has(said))
    if keys is not None:
        query = query.where(Revision.id.in_(keys))
    for row in session.execute(query):
        yield Named(f"{row.path}@{row.number}", row.digest, row.retracted_at is not None)


def _begins(column: InstrumentedAttribute[str], digits: str) -> ColumnElement[bool]:
    """The condition that a digest begins with hex digits, as a range, which an index finds."""
    start = PREFIX + digits
    return column.between(start, f"{start}g")
