"""Cards of adapters: edited texts, and which published README.md is the card where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import CTE, bindparam, literal, select
from sqlalchemy.orm import Session

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import Adapter, Blob, Revision, RevisionFile
from registry.catalogue.database.team_tables import CardRecord
from registry.catalogue.store.blobs import BLOB_COLUMNS
from registry.digest import StoredFile, sha256_digest
from registry.schemas.labels import CardState

README: Final = "README.md"
NO_CARD: Final = sha256_digest(b"")
"""The digest of the text of an adapter that has no card."""
LOOKED_AT: Final = 1000
"""Revisions among which a README.md is looked for: an adapter without any may have 200,000."""


def edited(session: Session, adapter_id: int) -> CardRecord | None:
    """The edited card of an adapter."""
    return session.get(CardRecord, adapter_id)


def metadata(session: Session, adapter_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The front matter of the edited cards of some adapters, by the adapter's key."""
    query = select(CardRecord.adapter_id, CardRecord.front_matter).where(CardRecord.adapter_id.in_(adapter_ids))
    return dict(session.execute(query).all())


def own_metadata(session: Session, adapter_id: int) -> dict[str, Any]:
    """The front matter of the edited card of an adapter; empty without one."""
    row = reading(session).first(_FRONT_MATTER, {"id": adapter_id})
    return {} if row is None else dict(row.front_matter)


def published(session: Session, adapter_id: int) -> tuple[str, StoredFile] | None:
    """The README.md of the newest revision that has one, of the newest `LOOKED_AT`, and that revision's reference."""
    row = reading(session).first(_PUBLISHED, {"id": adapter_id})
    return None if row is None else (f"{row.adapter}@{row.number}", StoredFile(*row[2:]))


def state(session: Session, adapter_id: int) -> CardState | None:
    """Which text is the card of an adapter; None if it has none."""
    row = reading(session).first(_STATE, {"id": adapter_id})
    if row is not None:
        return CardState(source="edited", digest=row.digest, edited_at=row.edited_at, edited_by=row.edited_by)
    found = published(session, adapter_id)
    return None if found is None else CardState(source="published", digest=found[1].digest, reference=found[0])


_FRONT_MATTER: Final = Prepared(
    lambda _: select(CardRecord.front_matter).where(CardRecord.adapter_id == bindparam("id"))
)
_STATE: Final = Prepared(
    lambda _: select(CardRecord.digest, CardRecord.edited_at, CardRecord.edited_by).where(
        CardRecord.adapter_id == bindparam("id")
    )
)


@cache
def _newest() -> CTE:
    # The file is looked for at each: of what is joined, PostgreSQL would look through all files.
    file = select(RevisionFile.digest).where(RevisionFile.revision_id == Revision.id, RevisionFile.path == README)
    query = select(Revision.number, Revision.adapter_id, file.limit(1).scalar_subquery().label("digest"))
    newest = query.where(Revision.adapter_id == bindparam("id")).order_by(Revision.number.desc()).limit(LOOKED_AT)
    return newest.cte("newest").prefix_with("MATERIALIZED")


_PUBLISHED: Final = Prepared(
    lambda _: (
        select(Adapter.path.label("adapter"), _newest().c.number, *BLOB_COLUMNS, literal(README).label("path"))
        .select_from(_newest())
        .join(Adapter, Adapter.id == _newest().c.adapter_id)
        .join(Blob, Blob.digest == _newest().c.digest)
        .order_by(_newest().c.number.desc())
        .limit(1)
    )
)
