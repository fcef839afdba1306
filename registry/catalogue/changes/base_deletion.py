"""Deletes base models, alone or with all adapters below; undo within the grace period."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, protection, undeletion
from registry.catalogue.database import events
from registry.catalogue.database.tables import BaseFile, BaseModelRecord
from registry.catalogue.database.team_tables import TokenRecord
from registry.catalogue.database.visibility import INCLUDE_DELETED, live
from registry.catalogue.store import blobs, purge
from registry.catalogue.tree import bases
from registry.errors import ConflictError, NotFoundError
from registry.reference import Path
from registry.rights import Principal
from registry.schemas import DeletedTree, TokenScope

_NAMED: Final = 8


def listing(session: Session, name: str) -> DeletedTree:
    """What deleting a base model would delete, and what else names it.

    Raises:
        NotFoundError: there is none of this name; offers the nearest.
    """
    return _with_names(session, deletion.listing(session, Path(name)))


def delete(session: Session, name: str, principal: Principal, *, recursive: bool) -> DeletedTree:
    """Delete a base model; ``recursive``: with every revision of its adapters.

    Raises:
        NotFoundError: there is none of this name; offers the nearest.
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
    # Locked before the query for what is below, so that nothing is published there meanwhile.
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
        NotFoundError: there is none, or it was deleted before then.
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
    patterns = tuple(one.pattern for one in protection.patterns(session, found.path))
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
