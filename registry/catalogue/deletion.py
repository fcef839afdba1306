"""Deleting a revision that nothing was trained on: what remains is the event, and that its number is taken."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.catalogue import events, materialising, protection, revisions
from registry.catalogue.revisions import RevisionRow
from registry.catalogue.tables import Adapter, Annotation, Metric, Revision, RevisionFile, RevisionTarget, Tag
from registry.errors import ConflictError
from registry.reference import Path
from registry.rights import Principal
from registry.schemas import Deleted

_NAMED: Final = 8  # children; more would bury the sentence


def delete(session: Session, revision_id: int, principal: Principal) -> Deleted:
    """Delete a revision with its tags, metrics, annotations and materialisations; its bytes are collected later.

    Raises:
        NotFoundError: it does not exist any more.
        ConflictError: ``has_children``, naming what was trained on it.
        NotAllowedError: ``protected_tag``, a protected tag names it.
    """
    # Locked before its children are looked for: nobody can pin or tag it any more.
    session.execute(select(Revision.id).where(Revision.id == revision_id).with_for_update())
    row = revisions.get(session, revision_id)
    _check_childless(session, row)
    path = Path.parse(row.path)
    tags = tuple(session.scalars(select(Tag.name).where(Tag.revision_id == revision_id).order_by(Tag.name)))
    for tag in tags:
        protection.check_movable(session, path, tag, principal)
    dropped = materialising.drop_of(session, revision_id)
    for table in (Tag, Metric, Annotation, RevisionFile, RevisionTarget):
        session.execute(delete_rows(table).where(table.revision_id == revision_id))
    session.execute(delete_rows(Revision).where(Revision.id == revision_id))
    detail: dict[str, object] = {
        "digest": row.digest,
        "parent": row.parent,
        "message": row.message,
        "author": row.author,
        "tags": tags,
    }
    if dropped:
        detail["materialisations"] = dropped
    events.record(session, "delete", row.reference, principal, detail)
    session.flush()
    return Deleted(reference=row.reference, digest=row.digest, tags=tuple(f"{row.path}@{tag}" for tag in tags))


def _check_childless(session: Session, row: RevisionRow) -> None:
    children = (
        select(Adapter.path, Revision.number)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Revision.parent_id == row.id)
    )
    named = [f"{path}@{number}" for path, number in session.execute(children.order_by(Revision.id).limit(_NAMED))]
    if named:
        count = session.scalar(select(func.count()).where(Revision.parent_id == row.id)) or 0
        more = f" and {count - len(named)} more" if count > len(named) else ""
        raise ConflictError(
            f"{row.reference} can't be deleted: {', '.join(named)}{more} {'was' if count == 1 else 'were'} trained on "
            "it. Retract it to take it out of use with all that contains it.",
            code="has_children",
        )
