"""Which adapters were trained on a revision, or directly on a base model."""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import Adapter, BaseModelRecord, Revision
from registry.schemas.around import ChildAdapter, Children

LISTED: Final = 20


def of_revision(session: Session, revision_id: int) -> Children:
    """The adapters with revisions that are pinned to a revision, as far as the session sees them."""
    return _children(session, Revision.parent_id == revision_id)


def of_base(session: Session, name: str) -> Children:
    """The adapters with revisions that were trained on the base model itself, as far as the session sees them."""
    base_id = select(BaseModelRecord.id).where(BaseModelRecord.name == name).scalar_subquery()
    return _children(session, Revision.parent_id.is_(None) & (Adapter.base_id == base_id))


def _children(session: Session, pinned: ColumnElement[bool]) -> Children:
    query = (
        select(Adapter.path, func.count(), func.max(Revision.number), func.count().over())
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(pinned)
        .group_by(Adapter.path)
        .order_by(Adapter.path)
        .limit(LISTED)
    )
    rows = session.execute(query).all()
    adapters = [ChildAdapter(path=path, revisions=count, newest=f"{path}@{number}") for path, count, number, _ in rows]
    return Children(total=rows[0][3] if rows else 0, adapters=tuple(adapters))
