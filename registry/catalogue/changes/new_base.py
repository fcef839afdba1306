"""Adding a base model to the catalogue.

Keeping the norms of a base model.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.changes import repo_ids
from registry.catalogue.database import events
from registry.catalogue.database.statistics_tables import BaseNormsRecord
from registry.catalogue.database.tables import BaseFile, BaseModelRecord
from registry.catalogue.store import blobs, purge
from registry.catalogue.store.blobs import FileRef
from registry.catalogue.tree import bases, provenance
from registry.catalogue.tree.norms import NormsRow
from registry.errors import ConflictError
from registry.reference import check_base_name
from registry.rights import Principal
from registry.schemas import BaseSummary, DerivedFrom


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


@dataclass(frozen=True)
class NewBase:
    """A base model to add; all its blobs are recorded already."""

    name: str
    digest: str  # of the weights
    table_digest: str
    files_digest: str
    architecture: str | None
    table_source: str
    parameters: int
    tensors: int
    size: int  # bytes of all files
    index_blob: str  # digest of the JSON that lists the tensors
    table_blob: str  # digest of the target table's JSON
    notices: tuple[str, ...]
    files: tuple[FileRef, ...]
    source: str | None = None  # where it was taken from
    derived_from: DerivedFrom | None = None
    norms: NormsRow | None = None  # of its slots


def add(session: Session, new: NewBase, principal: Principal) -> tuple[BaseSummary, bool]:
    """Add a base model; False: the same weights were there under this name already, and nothing was changed.

    Raises:
        ConflictError: ``other_weights``, the name is taken by other weights; ``name_taken``, by a repo id.
    """
    check_base_name(new.name)
    taken = session.scalar(select(BaseModelRecord.digest).where(BaseModelRecord.name == new.name))
    if taken is not None:
        if taken != new.digest:
            raise ConflictError(
                f"Base model {new.name} already exists with other weights: it has {taken}, the folder has "
                f"{new.digest}. Choose another name.",
                code="other_weights",
            )
        return bases.summary(session, new.name), False
    repo_ids.check_free(session, new.name)
    blobs.require(session, [*(file.digest for file in new.files), new.index_blob, new.table_blob], new.name)
    replaced = purge.release_name(session, new.name, principal)
    row = BaseModelRecord(
        name=new.name,
        digest=new.digest,
        table_digest=new.table_digest,
        files_digest=new.files_digest,
        architecture=new.architecture,
        table_source=new.table_source,
        parameters=new.parameters,
        tensors=new.tensors,
        size=new.size,
        index_blob=new.index_blob,
        table_blob=new.table_blob,
        notices=list(new.notices),
        created_at=datetime.now(UTC),
        source=new.source,
        derived_from=provenance.kept(new.derived_from) if new.derived_from else None,
    )
    session.add(row)
    session.flush()
    purge.reassign_adapters(session, replaced, row.id)
    if new.norms is not None:
        put(session, row.id, new.norms)
    session.add_all(BaseFile(base_id=row.id, path=file.path, digest=file.digest) for file in new.files)
    events.record(session, "base add", new.name, principal, {"digest": new.digest, "table": new.table_digest})
    session.flush()
    return bases.summary(session, new.name), True
