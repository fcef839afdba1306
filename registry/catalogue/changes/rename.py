"""Renaming: a subtree gets a new last name, or a base model a new one, as new rows over the same bytes.

The old names stay: see `registry.catalogue.tree.old_names`. The base model is held for the whole change, as it is by
who publishes, and every revision is held as by who retracts: so nothing that happens meanwhile is left out.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from registry.catalogue.changes import protection, renamed_rows, repo_ids
from registry.catalogue.changes.renamed_rows import Renaming
from registry.catalogue.database import events
from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, BaseModelRecord, Revision
from registry.catalogue.database.team_tables import MaterialisationRecord
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED, in_subtree, rights_of
from registry.catalogue.tree import bases, old_names, revisions
from registry.errors import ConflictError, UsageError
from registry.reference import Path
from registry.rights import Principal
from registry.schemas.labels import Renamed
from registry.schemas.team import EventKind


def rename(session: Session, old: Path, new: Path, principal: Principal) -> Renamed:
    """Give an adapter and everything under it a new last name; doing so again changes nothing.

    Raises:
        NotFoundError: there is no such adapter; offers the nearest.
        UsageError: it has this name already, or a path under it would be too long.
        ConflictError: ``renamed``, it is an old name; ``name_taken``, the new name is used or was.
    """
    _lock_base(session, old.base)
    found = session.execute(select(Adapter.renamed_to).where(Adapter.path == str(old), HAS_REVISIONS)).one_or_none()
    if found is None:
        raise revisions.missing_adapter(session, old)
    renaming = Renaming(old, new)
    if _is_done(session, renaming, found.renamed_to):
        return _already(session, renaming)
    _check_length(session, renaming)
    _check_free(session, new)
    return _copy(session, renaming, principal)


def rename_base(session: Session, old: Path, new: Path, principal: Principal) -> Renamed:
    """Give a base model and all adapters below it a new name; doing so again changes nothing.

    Raises:
        NotFoundError: there is no such base model; offers the nearest.
        UsageError: it has this name already.
        ConflictError: ``renamed``, it is an old name; ``name_taken``, the new name is used or was.
    """
    row = _lock_base(session, old.base)
    renaming = Renaming(old, new)
    if _is_done(session, renaming, row.renamed_to):
        return _already(session, renaming)
    taken = select(BaseModelRecord.deleted_at).where(BaseModelRecord.name == str(new))
    there = session.execute(taken, execution_options={**IGNORE_RIGHTS, **INCLUDE_DELETED}).one_or_none()
    if there is not None:
        state = "already exists" if there.deleted_at is None else "is the name of a base model that was deleted"
        raise ConflictError(f"{new} {state}: choose another name for {old}.")
    _check_free(session, new)
    repo_ids.check_free(session, new.base)
    return _copy(session, renaming, principal)


def _lock_base(session: Session, name: str) -> Row[int, str | None]:
    """The base model, held against everything that is published, deleted or restored below it."""
    held = select(BaseModelRecord.id, BaseModelRecord.renamed_to).where(BaseModelRecord.name == name).with_for_update()
    found = session.execute(held).one_or_none()
    if found is None:
        raise bases.missing(session, name)
    return found


def _is_done(session: Session, renaming: Renaming, renamed_to: str | None) -> bool:
    if renaming.old == renaming.new:
        raise UsageError(f"{renaming.old} already has this name.")
    if renamed_to is None:
        return False
    if renamed_to == str(renaming.new) and old_names.visible_names(session, [renamed_to]):
        return True
    if renamed_to == str(renaming.new):
        sentence = f"{renaming.old} was already renamed, to {renaming.new}, which is deleted."
    elif rights_of(session).covers(Path.parse(renamed_to)):
        sentence = f"{renaming.old} was already renamed, to {renamed_to}: rename that."
    else:
        sentence = f"{renaming.old} is an old name, and can't be renamed again."
    raise ConflictError(sentence, code="renamed")


def _counted(session: Session, path: Path) -> tuple[int, int]:
    """How many adapters and revisions there are at and under a path."""
    query = select(func.count(Adapter.id.distinct()), func.count(Revision.id))
    found = session.execute(query.join(Revision, Revision.adapter_id == Adapter.id).where(in_subtree(path))).one()
    return found[0], found[1]


def _already(session: Session, renaming: Renaming) -> Renamed:
    adapters, written = _counted(session, renaming.new)
    return Renamed(
        path=str(renaming.old), renamed_to=str(renaming.new), adapters=adapters, revisions=written, already=True
    )


def _check_length(session: Session, renaming: Renaming) -> None:
    """Refuse where a path below would be longer than paths may be."""
    query = select(Adapter.path).where(in_subtree(renaming.old)).order_by(func.length(Adapter.path).desc()).limit(1)
    longest = session.scalars(query).one()
    Path.parse(str(renaming.new) + longest.removeprefix(str(renaming.old)))


def _check_free(session: Session, new: Path) -> None:
    """Refuse a name under which there is or was anything: numbers are never reused, and old names go on."""
    query = select(Adapter.path, Adapter.renamed_to, HAS_REVISIONS.label("there")).where(in_subtree(new))
    found = session.execute(query.order_by(Adapter.path).limit(1), execution_options=IGNORE_RIGHTS).one_or_none()
    if found is None:
        return
    if found.renamed_to is not None:
        why = f"{found.path} is an old name, which goes on"
    elif found.there:
        why = f"{found.path} already exists"
    else:
        why = f"revisions of {found.path} were deleted, and their numbers are never reused"
    raise ConflictError(f"{why}: choose another name.")


def _copy(session: Session, renaming: Renaming, principal: Principal) -> Renamed:
    old, new = str(renaming.old), str(renaming.new)
    _lock_revisions(session, renaming)
    protected = protection.protected(session, renaming.old.base, renamed_rows.tags_under(session, renaming))
    base_id = renamed_rows.copy_base(session, renaming) if renaming.old.is_base else None
    renamed_rows.copy_adapters(session, renaming, base_id)
    left = renamed_rows.copy_details(session, renaming, protected)
    renamed_rows.move_rules(session, renaming)
    kept = _materialisations(session, renaming.old)
    adapters, written = _counted(session, renaming.new)
    renamed_rows.mark(session, renaming)
    action: EventKind = "base rename" if renaming.old.is_base else "rename"
    events.record(session, action, old, principal, {"to": new, "revisions": written})
    events.record(session, action, new, principal, {"from": old, "revisions": written})
    return Renamed(
        path=old, renamed_to=new, adapters=adapters, revisions=written, tags_left=left, materialisations=kept
    )


def _lock_revisions(session: Session, renaming: Renaming) -> None:
    """Hold everything under the old name, so that what is copied is neither retracted nor deleted meanwhile."""
    held = (
        select(Revision.id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(in_subtree(renaming.old))
        .order_by(Revision.id)
        .with_for_update(read=True, of=Revision)
        .subquery()
    )
    session.execute(select(func.count()).select_from(held))


def _materialisations(session: Session, old: Path) -> int:
    """How many there are of the old name: they are of its rows, and the new one has none."""
    query = (
        select(func.count(MaterialisationRecord.id))
        .join(Revision, Revision.id == MaterialisationRecord.revision_id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(in_subtree(old), MaterialisationRecord.expires_at > datetime.now(UTC))
    )
    return session.scalar(query) or 0
