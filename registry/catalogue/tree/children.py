"""Which adapters were trained on a revision, or directly on a base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import Adapter, BaseModelRecord, Revision
from registry.schemas.around import ChildAdapter, Children

LISTED: Final = 20
# SQLite may neither group by an index of all revisions, nor begin at the adapters: both are many more.
_ADAPTER: Final = (Revision.adapter_id + 0).label("adapter_id")


def of_revision(session: Session, revision_id: int) -> Children:
    """The adapters with revisions that are pinned to a revision, as far as the session sees them."""
    return _children(reading(session).rows(_OF_REVISION, {"id": revision_id}))


def of_base(session: Session, name: str) -> Children:
    """The adapters with revisions that were trained on the base model itself, as far as the session sees them."""
    base_id = select(BaseModelRecord.id).where(BaseModelRecord.name == name).scalar_subquery()
    chosen = _of_each().join(Adapter, Adapter.id == Revision.adapter_id)
    pinned = Revision.parent_id.is_(None) & (Adapter.base_id == base_id)
    return _children(session.execute(_query(chosen.where(pinned))).all())


def _of_each() -> Select[*tuple[Any, ...]]:
    return select(_ADAPTER, func.count().label("revisions"), func.max(Revision.number).label("newest"))


def _query(chosen: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    each = chosen.group_by(_ADAPTER).subquery()
    return (
        select(Adapter.path, each.c.revisions, each.c.newest, func.count(Adapter.path).over().label("total"))
        .outerjoin_from(each, Adapter, Adapter.id == each.c.adapter_id)
        .order_by(Adapter.path.is_(None), Adapter.path)
        .limit(LISTED)
    )


_OF_REVISION: Final = Prepared(lambda _: _query(_of_each().where(Revision.parent_id == bindparam("id"))))


def _children(rows: Sequence[Any]) -> Children:
    seen = [row for row in rows if row.path is not None]
    adapters = [ChildAdapter(path=row.path, revisions=row.revisions, newest=f"{row.path}@{row.newest}") for row in seen]
    return Children(total=rows[0].total if rows else 0, adapters=tuple(adapters))
