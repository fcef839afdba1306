"""The transaction that replaces the target table of a base model."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.tables import Adapter, BaseModelRecord, Revision
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED
from registry.catalogue.store import blobs
from registry.catalogue.tree import commits
from registry.catalogue.tree.bases import BaseRow
from registry.rights import Principal


@dataclass(frozen=True)
class NewTable:
    """A target table whose blob is recorded already."""

    digest: str
    blob: str  # digest of its JSON
    source: str
    architecture: str | None
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Below:
    """A revision of a base model, also one that was retracted, or deleted and may come back."""

    id: int
    parent_id: int | None
    path: str
    number: int
    deleted: bool

    @property
    def reference(self) -> str:
        """``PATH@N``."""
        return f"{self.path}@{self.number}"


def all_below(session: Session, base_id: int) -> tuple[Below, ...]:
    """All revisions of a base model, parents before children."""
    query = (
        select(Revision.id, Revision.parent_id, Adapter.path, Revision.number, Revision.deleted_at.is_not(None))
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Adapter.base_id == base_id)
        .order_by(Revision.id)
    )
    return tuple(Below(*row) for row in session.execute(query, execution_options=IGNORE_RIGHTS | INCLUDE_DELETED))


def retable(session: Session, base: BaseRow, new: NewTable, principal: Principal) -> bool:
    """Replace the table of a base model; False: it is not the one of ``base`` any more, and nothing was changed.

    The grace period of the old one's bytes begins now, so that readers finish.
    """
    row = session.scalar(select(BaseModelRecord).where(BaseModelRecord.id == base.id).with_for_update())
    if row is None or row.table_digest != base.table_digest:
        return False
    blobs.require(session, [new.blob], base.name)
    blobs.use(session, [row.table_blob])
    row.table_digest, row.table_blob, row.table_source = new.digest, new.blob, new.source
    row.architecture, row.notices = new.architecture, list(new.notices)
    detail = {"digest": row.digest, "table": new.digest, "previous": base.table_digest}
    events.record(session, "base retable", base.name, principal, detail)
    session.flush()
    commits.write_of_base(session, base.id)
    return True
