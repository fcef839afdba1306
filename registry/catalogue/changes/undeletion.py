"""Undoes deletions within the grace period.

Number, digest, message, metrics and annotations were retained; tags are restored unless they point elsewhere by now.
Materialisations are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from registry.catalogue.changes import tagging
from registry.catalogue.database import events
from registry.catalogue.database.tables import Adapter, BaseModelRecord, Revision, RevisionSource, Tag
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED, in_subtree, live
from registry.catalogue.store import purge
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import revisions
from registry.digest import PREFIX
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.reference import Path, Reference
from registry.rights import Principal
from registry.schemas import Deleted, DeletedTree

_COLUMNS: Final = (
    Revision.id,
    Revision.adapter_id,
    Revision.number,
    Revision.digest,
    Revision.parent_id,
    Revision.deleted_at,
    Revision.deleted_tags,
    Adapter.path,
)


@dataclass(frozen=True)
class _Row:
    id: int
    adapter_id: int
    number: int
    digest: str
    parent_id: int | None
    deleted_at: datetime | None
    deleted_tags: list[str] | None
    path: str

    @property
    def reference(self) -> str:
        return f"{self.path}@{self.number}"


def undo(session: Session, reference: Reference, since: datetime, principal: Principal) -> Deleted:
    """Restore a revision that was deleted since then; idempotent.

    Raises:
        NotFoundError: the revision does not exist, or it was deleted before then.
        UsageError: a digest prefix that several revisions share.
        ConflictError: ``parent_deleted``.
        NotAllowedError: ``protected_tag``, a protected tag would name it again.
    """
    row = _find(session, reference)
    if row.deleted_at is None:
        return Deleted(reference=row.reference, digest=row.digest, tags=(), undone=True)
    if row.deleted_at < since:
        raise _too_late(row.reference, row.deleted_at)
    _lock_ancestors(session, [row])
    if not _lock(session, [row]):
        return undo(session, reference, since, principal)  # restored or purged while the lock was waited for
    given, elsewhere = _restore(session, [row], principal)
    return Deleted(reference=row.reference, digest=row.digest, tags=given, undone=True, tags_elsewhere=elsewhere)


def undo_tree(session: Session, path: Path, since: datetime, principal: Principal) -> DeletedTree:
    """Restore what the last deletion at and under a path deleted.

    Raises:
        NotFoundError: nothing is deleted at the path, or it was before then.
        ConflictError: ``parent_deleted``.
        NotAllowedError: ``protected_tag``.
    """
    check_base(session, path.base)
    last = session.scalar(
        _rows(func.max(Revision.deleted_at)).where(in_subtree(path)), execution_options=INCLUDE_DELETED
    )
    if last is None:
        raise NotFoundError(f"There is nothing to restore at or under {path}.")
    if last < since:
        raise _too_late(str(path), last)
    rows, given, elsewhere = deleted_at(session, path, last, principal)
    return DeletedTree(
        path=str(path),
        revisions=tuple(row.reference for row in rows),
        tags=given,
        undone=True,
        tags_elsewhere=elsewhere,
    )


def deleted_at(
    session: Session, path: Path, moment: datetime, principal: Principal
) -> tuple[Sequence[_Row], tuple[str, ...], tuple[str, ...]]:
    """Give back what was deleted at one moment at and under a path; the revisions, their tags, and tags elsewhere."""
    query = _rows(*_COLUMNS).where(in_subtree(path), Revision.deleted_at == moment).order_by(Revision.id)
    rows = [_Row(*row) for row in session.execute(query, execution_options=INCLUDE_DELETED)]
    _lock_ancestors(session, rows)
    held = _lock(session, rows)
    rows = [row for row in rows if row.id in held]
    return rows, *_restore(session, rows, principal)


def check_base(session: Session, name: str) -> None:
    """Refuse to restore anything below a deleted base model; locks it until the transaction ends.

    Raises:
        ConflictError: ``parent_deleted``.
    """
    held = select(BaseModelRecord.id).where(BaseModelRecord.name == name).with_for_update(read=True, key_share=True)
    if session.scalar(held) is not None:
        return
    gone = select(BaseModelRecord.id).where(BaseModelRecord.name == name, purge.has_files())
    if session.scalar(gone, execution_options=INCLUDE_DELETED) is not None:
        raise ConflictError(
            f"The base model {name} is deleted too: `registry base delete {name} --undo` restores it and everything "
            "that was deleted with it.",
            code="parent_deleted",
        )


def _rows(*columns: Any) -> Select[*tuple[Any, ...]]:
    return select(*columns).join(Adapter, Adapter.id == Revision.adapter_id)


def _find(session: Session, reference: Reference) -> _Row:
    check_base(session, reference.path.base)
    query = _rows(*_COLUMNS).where(Adapter.path == str(reference.path))
    if reference.number is not None:
        query = query.where(Revision.number == reference.number)
    else:
        begin = f"{PREFIX}{(reference.digest_prefix or '').removeprefix(PREFIX)}"
        query = query.where(Revision.digest >= begin, Revision.digest < f"{begin}g")  # hex digits end before "g"
    found = [_Row(*row) for row in session.execute(query.limit(2), execution_options=INCLUDE_DELETED)]
    if len(found) > 1:
        raise UsageError(f"{reference} matches several revisions: give more digits, or a number.")
    if not found:
        try:
            return _again(revisions.find(session, reference))
        except NotFoundError as error:
            raise NotFoundError(f"{error} There is no deleted revision to restore.") from None
    return found[0]


def _again(row: revisions.RevisionRow) -> _Row:
    return _Row(row.id, row.adapter_id, row.number, row.digest, row.parent_id, None, None, row.path)


def _lock_ancestors(session: Session, rows: Sequence[_Row]) -> None:
    """Check that all parents exist or are restored too; locks them until the transaction ends."""
    own = {row.id for row in rows}
    above = {row.parent_id: row for row in rows if row.parent_id is not None and row.parent_id not in own}
    there: set[int] = set()
    for part in parts(sorted(above)):
        held = select(Revision.id).where(Revision.id.in_(part)).order_by(Revision.id)
        locked = held.with_for_update(read=True, key_share=True)
        there.update(session.scalars(locked, execution_options=IGNORE_RIGHTS))
    for parent_id, row in above.items():
        if parent_id not in there:
            parent = _rows(Adapter.path, Revision.number).where(Revision.id == parent_id)
            named = session.execute(parent, execution_options={**IGNORE_RIGHTS, **INCLUDE_DELETED}).one_or_none()
            name = "its parent" if named is None else f"{named.path}@{named.number}"
            raise ConflictError(
                f"{row.reference} was trained on {name}, which is deleted: restore that first with `registry delete "
                f"{name} --undo`, or everything that was deleted together with -r and a path above both.",
                code="parent_deleted",
            )
    _lock_what_they_are_made_of(session, rows)


def _lock_what_they_are_made_of(session: Session, rows: Sequence[_Row]) -> None:
    """The same of what combinations among them are made of."""
    own = {row.id: row for row in rows}
    there: set[int] = set(own)
    needed: list[tuple[int, int]] = []
    for part in parts(sorted(own)):
        query = select(RevisionSource.revision_id, RevisionSource.source_id)
        found = session.execute(query.where(RevisionSource.revision_id.in_(part)))
        needed += ((key, source) for key, source in found)
    for part in parts(sorted({source for _, source in needed} - there)):
        held = select(Revision.id).where(Revision.id.in_(part)).order_by(Revision.id)
        locked = held.with_for_update(read=True, key_share=True)
        there.update(session.scalars(locked, execution_options=IGNORE_RIGHTS))
    for key, source in needed:
        if source not in there:
            query = _rows(Adapter.path, Revision.number).where(Revision.id == source)
            named = session.execute(query, execution_options=INCLUDE_DELETED).one_or_none()  # if it may be seen
            what = "a revision that this token may not see" if named is None else f"{named.path}@{named.number}"
            how = "" if named is None else f" with `registry delete {what} --undo`"
            raise ConflictError(
                f"{own[key].reference} is combined of {what}, which is deleted: restore that first{how}.",
                code="parent_deleted",
            )


def _lock(session: Session, rows: Sequence[_Row]) -> set[int]:
    """Lock those that are still deleted and not purged."""
    found: set[int] = set()
    for part in parts(sorted(row.id for row in rows)):
        held = select(Revision.id).where(Revision.id.in_(part), ~live(Revision)).order_by(Revision.id).with_for_update()
        found.update(session.scalars(held, execution_options=INCLUDE_DELETED))
    return found


def _restore(session: Session, rows: Sequence[_Row], principal: Principal) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Clear the marks; returns the restored tags, and those that name something else by now."""
    given: list[str] = []
    elsewhere: list[str] = []
    for row in rows:
        tags = row.deleted_tags or []
        taken = select(Tag.name).where(Tag.adapter_id == row.adapter_id, Tag.name.in_(tags))
        held = set(session.scalars(taken))
        again = [tag for tag in tags if tag not in held]
        for tag in again:
            tagging.check_movable(session, Path.parse(row.path), tag, principal)
        values = {"deleted_at": None, "deleted_by": None, "deleted_tags": None}
        session.execute(update(Revision).where(Revision.id == row.id).values(values))
        # A tag that is set concurrently violates a unique key: `Database.change` retries.
        session.add_all(Tag(adapter_id=row.adapter_id, name=tag, revision_id=row.id) for tag in again)
        events.record(session, "delete undo", row.reference, principal, {"digest": row.digest, "tags": again})
        given += (f"{row.path}@{tag}" for tag in again)
        elsewhere += (f"{row.path}@{tag}" for tag in tags if tag in held)
    session.flush()
    return tuple(given), tuple(elsewhere)


def _too_late(what: str, at: datetime) -> NotFoundError:
    return NotFoundError(
        f"{what} was deleted on {at:%Y-%m-%d at %H:%M} UTC, and the grace period is over: it can't be restored, only "
        "published again."
    )
