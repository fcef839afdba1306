"""Tags: movable names for revisions."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.changes import protection
from registry.catalogue.database import events
from registry.catalogue.database.tables import Adapter, EventRecord, Revision, Tag
from registry.catalogue.tree import revisions
from registry.catalogue.tree.suggestions import offered
from registry.errors import NotFoundError
from registry.reference import Path, check_tag
from registry.rights import Principal
from registry.schemas import Tagged
from registry.schemas.texts import check_text


def set_tag(session: Session, revision_id: int, tag: str, principal: Principal) -> Tagged:
    """Let ``tag`` name a revision of its adapter, moving it if it named another.

    Raises:
        UsageError: ``bad_name``, the tag is outside the grammar.
        NotFoundError: the revision does not exist any more.
        NotAllowedError: ``protected_tag``.
    """
    check_tag(tag)
    # Locked against deletion until the transaction ends: a row marked as deleted could be tagged still.
    session.execute(select(Revision.id).where(Revision.id == revision_id).with_for_update(read=True, key_share=True))
    row = revisions.get(session, revision_id)
    protection.check_movable(session, Path.parse(row.path), tag, principal)
    held = session.get(Tag, (row.adapter_id, tag), with_for_update=True)
    previous = None if held is None else _reference(session, row.path, held)
    if held is None:
        session.add(Tag(adapter_id=row.adapter_id, name=tag, revision_id=revision_id))
    else:
        held.revision_id = revision_id
    if previous != row.reference:
        events.record(session, "tag", row.path, principal, {"tag": tag, "old": previous, "new": row.reference})
    session.flush()
    return Tagged(path=row.path, tag=tag, reference=row.reference, previous=previous)


def remove_tag(session: Session, path: Path, tag: str, principal: Principal) -> Tagged:
    """Remove a tag of an adapter.

    Raises:
        UsageError: the tag is no text that can be kept.
        NotFoundError: there is no such adapter or tag; offers the nearest.
        NotAllowedError: ``protected_tag``.
    """
    adapter_id = revisions.adapter(session, path)
    held = session.get(Tag, (adapter_id, check_text("The tag", tag)), with_for_update=True)
    if held is None:
        tags = session.scalars(select(Tag.name).where(Tag.adapter_id == adapter_id)).all()
        hint = offered(tag, tags, f"tags of {path}") if tags else " It has no tags."
        raise NotFoundError(f"{path} has no tag {tag}.{hint}")
    protection.check_movable(session, path, tag, principal)
    previous = _reference(session, str(path), held)
    session.delete(held)
    events.record(session, "untag", str(path), principal, {"tag": tag, "old": previous, "new": None})
    session.flush()
    return Tagged(path=str(path), tag=tag, reference=None, previous=previous)


def ever_named(session: Session, path: Path, tag: str | None) -> tuple[str, ...]:
    """The references of all revisions that a tag has named, oldest first; none where it names none now."""
    held = select(Tag.revision_id).join(Adapter, Adapter.id == Tag.adapter_id)
    if session.scalar(held.where(Adapter.path == str(path), Tag.name == tag)) is None:
        return ()
    noted = select(EventRecord.detail).where(EventRecord.action == "tag", EventRecord.subject == str(path))
    details = session.scalars(noted.order_by(EventRecord.id)).all()
    return tuple(dict.fromkeys(str(detail["new"]) for detail in details if detail.get("tag") == tag))


def _reference(session: Session, path: str, tag: Tag) -> str:
    number = session.scalar(select(Revision.number).where(Revision.id == tag.revision_id))
    return f"{path}@{number}"
