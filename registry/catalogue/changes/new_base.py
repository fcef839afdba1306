"""Adding a base model, recording the norms of its weights, replacing its target table, and deleting it.

A base model is deleted alone or with all adapters below it, and can be restored within the grace period.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from registry.catalogue.changes import also_known_as, deletion, tagging, undeletion
from registry.catalogue.database import events
from registry.catalogue.database.statistics_tables import BaseNormsRecord
from registry.catalogue.database.tables import Adapter, BaseFile, BaseModelRecord, Revision
from registry.catalogue.database.team_tables import TokenRecord
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED, live
from registry.catalogue.store import blobs, purge
from registry.catalogue.store.blobs import FileRef
from registry.catalogue.tree import bases, commits, provenance
from registry.catalogue.tree.bases import BaseRow, NormsRow
from registry.errors import ConflictError, NotFoundError
from registry.reference import Path, check_base_name
from registry.rights import Principal
from registry.schemas import BaseSummary, DeletedTree, DerivedFrom, TokenScope

_NAMED: Final = 8


def listing(session: Session, name: str) -> DeletedTree:
    """What deleting a base model would delete, and what else names it.

    Raises:
        NotFoundError: no base model has this name; offers the nearest.
    """
    return _with_names(session, deletion.listing(session, Path(name)))


def delete(session: Session, name: str, principal: Principal, *, recursive: bool) -> DeletedTree:
    """Delete a base model; ``recursive``: with every revision of its adapters.

    Raises:
        NotFoundError: no base model has this name; offers the nearest.
        ConflictError: ``has_children``, something lives below it.
    """
    path = Path(name)
    query = select(BaseModelRecord.id, BaseModelRecord.digest, BaseModelRecord.index_blob, BaseModelRecord.table_blob)
    row = session.execute(query.where(BaseModelRecord.name == name)).one_or_none()
    if row is None:
        raise bases.missing(session, name)
    files = session.scalars(select(BaseFile.digest).where(BaseFile.base_id == row.id)).all()
    blobs.use(session, [*files, row.index_blob, row.table_blob])
    deletion.use_blobs(session, path)
    # Locked before the query for what is below, so that nothing is published below it meanwhile.
    session.execute(select(BaseModelRecord.id).where(BaseModelRecord.id == row.id).with_for_update())
    found = _with_names(session, deletion.listing(session, path))
    if found.revisions and not recursive:
        _refuse(name, found.revisions)
    now = datetime.now(UTC)
    answer = found.model_copy(update={"done": True})
    if found.revisions:
        gone = deletion.delete_tree(session, path, principal, with_tags=True, now=now)
        gained = {"revisions": gone.revisions, "tags": gone.tags, "use": gone.use, "used": gone.used}
        answer = answer.model_copy(update=gained)
    values = {"deleted_at": now, "deleted_by": principal.name}
    session.execute(update(BaseModelRecord).where(BaseModelRecord.id == row.id).values(values))
    detail = {"digest": row.digest, "revisions": len(answer.revisions), "protected_tags": answer.protected_tags}
    events.record(session, "base delete", name, principal, detail)
    return answer


def undo(session: Session, name: str, since: datetime, principal: Principal) -> DeletedTree:
    """Restore a base model that was deleted since then, with what was deleted with it; idempotent.

    Raises:
        NotFoundError: it does not exist, or it was deleted before then.
    """
    held = select(BaseModelRecord.id, BaseModelRecord.digest, BaseModelRecord.deleted_at).where(
        BaseModelRecord.name == name, or_(live(BaseModelRecord), purge.has_files())
    )
    row = session.execute(held.with_for_update(), execution_options=INCLUDE_DELETED).one_or_none()
    if row is None:
        raise bases.missing(session, name)
    if row.deleted_at is None:
        return DeletedTree(path=name, revisions=(), tags=(), undone=True)
    if row.deleted_at < since:
        raise NotFoundError(
            f"The base model {name} was deleted on {row.deleted_at:%Y-%m-%d at %H:%M} UTC, and the grace period is "
            "over: it can't be restored, only added again."
        )
    values = {"deleted_at": None, "deleted_by": None}
    session.execute(update(BaseModelRecord).where(BaseModelRecord.id == row.id).values(values))
    events.record(session, "base delete undo", name, principal, {"digest": row.digest})
    rows, given, elsewhere = undeletion.deleted_at(session, Path(name), row.deleted_at, principal)
    return DeletedTree(
        path=name,
        revisions=tuple(one.reference for one in rows),
        tags=given,
        undone=True,
        tags_elsewhere=elsewhere,
    )


def _with_names(session: Session, found: DeletedTree) -> DeletedTree:
    """With the token scopes and protected patterns that name the base model: later ones of that name get them."""
    patterns = tuple(one.pattern for one in tagging.patterns(session, found.path))
    return found.model_copy(update={"protected_tags": patterns, "scopes": _scopes(session, Path(found.path))})


def _scopes(session: Session, base: Path) -> tuple[TokenScope, ...]:
    query = select(TokenRecord.id, TokenRecord.scopes, TokenRecord.expires_at).where(TokenRecord.revoked_at.is_(None))
    now = datetime.now(UTC)
    return tuple(
        TokenScope(token=row.id, scope=scope)
        for row in session.execute(query.order_by(TokenRecord.created_at, TokenRecord.id))
        if row.expires_at is None or row.expires_at > now
        for scope in row.scopes
        if Path.parse(scope).base == base.base
    )


def _refuse(name: str, found: Collection[str]) -> None:
    shown = ", ".join(list(found)[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    raise ConflictError(
        f"The base model {name} can't be deleted: {shown}{more} depend{'s' if len(found) == 1 else ''} on it. "
        f"`registry base delete -r {name}` deletes them with it.",
        code="has_children",
    )


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


def keep(session: Session, name: str, digest: str, norms: NormsRow) -> bool:
    """Store the norms of a base model, replacing those that it has.

    False, and nothing is changed: no base model of this name has these weights and this target table any more.

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
    """Add a base model; False: the same weights have this name already, and nothing was changed.

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
    also_known_as.check_free(session, new.name)
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
